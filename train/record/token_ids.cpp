#include "train/record/token_ids.h"

#include "core/check.h"

namespace filigree {
namespace {

// How much a name tells. llm.c's "gpt2" and "llama3" stand for BPE tokenizers, of which there is no checksum.
bool is_bpe_label(const std::string& name) {
  return name == "gpt2" || name == "llama3";
}

bool may_be_the_same(const std::string& a, const std::string& b) {
  if (a == b || a.empty() || b.empty()) return true;
  return (is_bpe_label(a) && b.starts_with("bpe:")) || (is_bpe_label(b) && a.starts_with("bpe:"));
}

}  // namespace

std::string require_fitting_tokens(const Vocabulary& data, const ModelTokens& model) {
  const bool task = data.tokenizer.starts_with("task ") || model.tokenizer.starts_with("task ");
  if (task ? data.tokenizer != model.tokenizer : !may_be_the_same(data.tokenizer, model.tokenizer))
    throw Error(ErrorKind::data,
                fmt::format("{}: the data has the tokenizer '{}', the model was trained with '{}'",
                            model.origin, data.tokenizer, model.tokenizer),
                "encode the data with the model's tokenizer; of .bin files only ids are compared");
  if (data.size > model.vocab_size)
    fail(ErrorKind::data, "{}: the data has {} kinds of tokens, the model knows {}", model.origin, data.size,
         model.vocab_size);
  if (data.tokenizer == model.tokenizer) return "";
  const auto named = [](const std::string& name) { return name.empty() ? "an unknown tokenizer" : name; };
  return fmt::format(
      "{}: the data holds ids of {}, the model was trained with {}: they are taken to be the same ids; all "
      "are below "
      "the model's {}",
      model.origin, named(data.tokenizer), named(model.tokenizer), model.vocab_size);
}

}  // namespace filigree
