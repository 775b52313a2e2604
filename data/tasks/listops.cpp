// ListOps (Nangia and Bowman 2018) with the lengths of Long Range Arena (Tay et al. 2021, 2.2.1): a nested
// expression of lists in prefix form, such as [MAX 2 9 [MIN 4 7 ] 0 ]; its value, 0 to 9, is the class.
//
// A node is an operator with probability 1/4 unless max_depth is reached, with 2 to max_args arguments; other
// nodes are digits. MED is the median, of an even number of values the mean of the middle two rounded down;
// SM is the sum modulo 10. Trees of less than min_length or more than max_length tokens are drawn again.
// Tokens: 0 padding, 1-10 the digits, 11-14 [MIN [MAX [MED [SM, 15 the closing bracket.
#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

enum class Operator { min, max, med, sm };

constexpr std::int32_t kDigit = 1, kOperator = 11, kClose = 15;
constexpr int kTriedTrees = 1'000'000;

std::int32_t apply(Operator op, std::vector<std::int32_t>& arguments) {
  std::ranges::sort(arguments);
  const std::size_t n = arguments.size();
  switch (op) {
    case Operator::min:
      return arguments.front();
    case Operator::max:
      return arguments.back();
    case Operator::med:
      return (arguments[(n - 1) / 2] + arguments[n / 2]) / 2;
    case Operator::sm:
      return std::accumulate(arguments.begin(), arguments.end(), 0) % 10;
  }
  return 0;
}

class ListopsTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("max_depth", max_depth_, between(2, 100), "levels of nested lists");
    f.integer("max_args", max_args_, between(2, 100), "longest list");
    f.integer("min_length", min_length_, between(4, 1 << 20), "shortest expression", {.unit = "tokens"});
    f.integer("max_length", max_length_, between(4, 1 << 20), "longest expression", {.unit = "tokens"});
  }
  void fit(MapReader& map, std::int64_t seq_len) override {
    if (min_length_ > max_length_)
      fail_at(map.mark_of("min_length"), fmt::format("{} ({}) must be at most max_length ({})",
                                                     map.name("min_length"), min_length_, max_length_));
    require_seq_len(map, seq_len, max_length_, fmt::format("max_length: {}", max_length_),
                    "or lower max_length and min_length");
    const std::int64_t longest = longest_tree(1);
    if (longest < min_length_)
      fail_at(map.node().mark,
              fmt::format("{}: max_depth {} and max_args {} give at most {} tokens, min_length is {}",
                          map.path(), max_depth_, max_args_, longest, min_length_));
  }

  std::string name() const override { return "listops"; }
  std::int64_t vocab_size() const override { return kClose + 1; }
  std::vector<std::string> class_names() const override {
    return {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  }

  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override {
    std::vector<std::int32_t> tokens;
    for (int attempt = 0; attempt < kTriedTrees; ++attempt) {
      tokens.clear();
      const std::int32_t value = draw_tree(random, 1, tokens);
      const std::int64_t length = std::ssize(tokens);
      if (length < min_length_ || length > max_length_) continue;
      std::ranges::copy(tokens, inputs.begin());
      targets[0] = value;
      return {length};
    }
    throw Error(ErrorKind::usage,
                fmt::format("data.task.listops: none of {} expressions had {} to {} tokens", kTriedTrees,
                            min_length_, max_length_),
                "allow more lengths, or change max_depth or max_args");
  }

 private:
  // The length of the longest tree whose root lies at this depth, or max_length if it may be longer.
  std::int64_t longest_tree(std::int64_t depth) const {
    return depth >= max_depth_ ? 1 : std::min(max_length_, 2 + max_args_ * longest_tree(depth + 1));
  }

  // Appends a tree and returns its value; a tree that has become too long is left unfinished.
  std::int32_t draw_tree(RandomStream& random, std::int64_t depth, std::vector<std::int32_t>& tokens) const {
    if (depth >= max_depth_ || random.below(4) != 0) {
      const auto digit = static_cast<std::int32_t>(random.below(10));
      tokens.push_back(kDigit + digit);
      return digit;
    }
    const auto op = static_cast<Operator>(random.below(4));
    tokens.push_back(kOperator + static_cast<std::int32_t>(op));
    std::vector<std::int32_t> arguments;
    for (std::int64_t left = random.range(2, max_args_); left > 0; --left) {
      if (std::ssize(tokens) > max_length_) return 0;
      arguments.push_back(draw_tree(random, depth + 1, tokens));
    }
    tokens.push_back(kClose);
    return apply(op, arguments);
  }

  std::int64_t max_depth_ = 10, max_args_ = 10, min_length_ = 500, max_length_ = 2000;
};

}  // namespace

std::shared_ptr<GeneratedTask> make_listops_task() {
  return std::make_shared<ListopsTask>();
}

}  // namespace filigree
