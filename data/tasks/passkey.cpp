// Needles in a haystack: among sentences that say nothing stand `keys` of the form "The code of NAME is
// DIGITS."; at the end one name is asked for, and its digits are the answer (passkey: Mohtashami and Jaggi
// 2023; several keys: the multi-key needles of RULER, Hsieh et al. 2024). Bytes, as the byte tokenizer writes
// them: a model trained on this can be prompted with text.
//
// The asked needle stands at one of `depths` evenly spaced depths, 0 % to 100 % of the haystack, moved to the
// nearest start of a sentence; its number is the sample's group. The targets are the digits.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/check.h"
#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

constexpr std::array<std::string_view, 8> kSentences = {
    "Rain fell on the hills all night. ",  "A boat went slowly down the river. ",
    "Nobody was in the street at noon. ",  "The baker closed his shop early. ",
    "Two dogs slept under the old tree. ", "Snow lay on every roof in town. ",
    "The train was late again today. ",    "Birds flew over the quiet lake. ",
};

constexpr std::int32_t kSeparator = 256;  // of the byte tokenizer; begins each document
constexpr std::int64_t kNameLength = 6;

std::string question(const std::string& name) {
  return fmt::format("What is the code of {}? It is ", name);
}
std::string needle(const std::string& name, const std::string& digits) {
  return fmt::format("The code of {} is {}. ", name, digits);
}

class PasskeyTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("keys", keys_, between(1, 10000), "needles, one of which is asked for");
    f.integer("digits", digits_, between(1, 1000), "digits of a needle's code");
    f.integer("depths", depths_, between(1, 1000), "depths at which the needle may stand, from start to end");
  }
  void fit(MapReader& map, std::int64_t seq_len) override {
    const std::string name(kNameLength, 'a'), digits(static_cast<std::size_t>(digits_), '0');
    fixed_ = keys_ * std::ssize(needle(name, digits)) + std::ssize(question(name)) + digits_;
    // The separator stands before the text, the last digit is a target only: the two make up for each other.
    require_seq_len(map, seq_len, fixed_ + std::ssize(kSentences[0]),
                    fmt::format("{} needle{} of {} digits, the question and a sentence", keys_,
                                keys_ > 1 ? "s" : "", digits_));
  }

  std::string name() const override { return "passkey"; }
  std::string tokenizer() const override { return "byte"; }
  std::int64_t vocab_size() const override { return 258; }
  std::vector<std::string> group_names() const override {
    std::vector<std::string> names;
    for (std::int64_t d = 0; d < depths_; ++d)
      names.push_back(fmt::format("depth {} %", depths_ > 1 ? 100 * d / (depths_ - 1) : 50));
    return names;
  }

  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override;

 private:
  // Sentences of `length` bytes in all, the first one cut, and where sentences begin.
  struct Haystack {
    std::string text;
    std::vector<std::size_t> starts;  // the first is 0
  };
  Haystack draw_haystack(RandomStream& random, std::size_t length) const;
  std::size_t place_at(const Haystack& haystack, std::int64_t depth) const;

  std::int64_t keys_ = 1, digits_ = 5, depths_ = 10;
  std::int64_t fixed_ = 0;  // bytes beside the haystack
};

PasskeyTask::Haystack PasskeyTask::draw_haystack(RandomStream& random, std::size_t length) const {
  Haystack hay;
  while (hay.text.size() < length) {
    hay.starts.push_back(hay.text.size());
    hay.text += kSentences[random.below(kSentences.size())];
  }
  const std::size_t cut = hay.text.size() - length;
  hay.text.erase(0, cut);
  for (std::size_t& start : hay.starts) start = start < cut ? 0 : start - cut;
  hay.starts.push_back(length);
  return hay;
}

// The sentence's start that is nearest to this depth.
std::size_t PasskeyTask::place_at(const Haystack& haystack, std::int64_t depth) const {
  const auto size = std::ssize(haystack.text);
  const std::int64_t wanted = depths_ > 1 ? size * depth / (depths_ - 1) : size / 2;
  return *std::ranges::min_element(haystack.starts, {}, [&](std::size_t start) {
    return std::abs(static_cast<std::int64_t>(start) - wanted);
  });
}

std::string draw_name(RandomStream& random) {
  constexpr std::string_view consonants = "bdfghklmnprstvz", vowels = "aeiou";
  std::string name;
  for (std::int64_t i = 0; i < kNameLength / 2; ++i) {
    name += consonants[random.below(consonants.size())];
    name += vowels[random.below(vowels.size())];
  }
  return name;
}

DrawnSample PasskeyTask::draw(RandomStream& random, std::span<std::int32_t> inputs,
                              std::span<std::int32_t> targets) const {
  const auto depth = static_cast<std::int32_t>(random.range(0, depths_ - 1));
  const Haystack hay = draw_haystack(random, inputs.size() - static_cast<std::size_t>(fixed_));
  std::vector<std::string> names, codes;
  while (std::ssize(names) < keys_) {
    const std::string drawn = draw_name(random);
    if (std::ranges::find(names, drawn) != names.end()) continue;
    names.push_back(drawn);
    codes.emplace_back();
    for (std::int64_t i = 0; i < digits_; ++i) codes.back() += static_cast<char>('0' + random.below(10));
  }
  std::vector<std::pair<std::size_t, std::size_t>> places;  // (place, key); the first key is asked for
  for (std::size_t key = 0; key < names.size(); ++key) {
    const std::size_t any = hay.starts[random.below(static_cast<std::uint32_t>(hay.starts.size()))];
    places.emplace_back(key == 0 ? place_at(hay, depth) : any, key);
  }
  std::ranges::sort(places);
  std::string text;
  std::size_t done = 0;
  for (const auto& [place, key] : places) {
    text.append(hay.text, done, place - done);
    text += needle(names[key], codes[key]);
    done = place;
  }
  text.append(hay.text, done);
  text += question(names[0]) + codes[0];
  check(text.size() == inputs.size(), "a text of another length");

  // Position i holds byte i - 1 and is asked for byte i.
  const std::size_t first_digit = text.size() - static_cast<std::size_t>(digits_);
  inputs[0] = kSeparator;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<std::int32_t>(static_cast<unsigned char>(text[i]));
    if (i + 1 < inputs.size()) inputs[i + 1] = byte;
    if (i >= first_digit) targets[i] = byte;
  }
  return {std::ssize(inputs), depth};
}

}  // namespace

std::shared_ptr<GeneratedTask> make_passkey_task() {
  return std::make_shared<PasskeyTask>();
}

}  // namespace filigree
