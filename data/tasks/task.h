// Generated tasks: samples that are a pure function of (seed, split, index), the same on every machine and
// after every restart, with labels that are right by construction. No file is read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/fields.h"
#include "core/random.h"

namespace filigree {

enum class Split { train, validation };

// The facts that a draw tells beside the tokens it wrote.
struct DrawnSample {
  std::int64_t length = 0;  // tokens before the padding
  std::int32_t group = 0;   // see GeneratedTask::group_names
};

class GeneratedTask {
 public:
  virtual ~GeneratedTask() = default;
  // Its parameters, which are read first, and then held against each other and the length of the samples:
  // Error(usage) at the key to change.
  virtual void fields(Fields& f) = 0;
  virtual void fit(MapReader& map, std::int64_t seq_len) = 0;

  virtual std::string name() const = 0;
  virtual std::int64_t vocab_size() const = 0;
  // Empty: a decoder's task, with a target per position. Else a classifier's, with one target, the class.
  virtual std::vector<std::string> class_names() const { return {}; }
  // The groups that accuracy is told apart by, such as a needle's depth; empty: none.
  virtual std::vector<std::string> group_names() const { return {}; }
  // The group of one target of a sample of group `sample`, given the input at its position.
  virtual std::int32_t target_group(std::int32_t sample, std::int32_t /*input*/) const { return sample; }
  // "byte" if the tokens are those of that tokenizer (data/tokenizer.h), else empty.
  virtual std::string tokenizer() const { return ""; }

  // Draws one sample. `inputs` holds seq_len zeros, `targets` seq_len (or one) ops::kIgnoreIndex; what is
  // asked stands at the position that must know it: targets[i] is the answer to inputs[0..i]. Integer
  // arithmetic only, or rounded to integers early: a sum of doubles differs with the compiler.
  virtual DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                           std::span<std::int32_t> targets) const = 0;
};

using TaskPtr = std::shared_ptr<const GeneratedTask>;

// Sample `index` of an endless stream. The hash of a sample's inputs decides which split it belongs to (one
// in four is validation) and draws that fall into the other one are drawn again: no validation sample is ever
// trained on, whatever the seeds. Error(usage) if the task has too few different samples for that.
DrawnSample generate_sample(const GeneratedTask& task, std::uint64_t seed, Split split, std::int64_t index,
                            std::span<std::int32_t> inputs, std::span<std::int32_t> targets);

}  // namespace filigree
