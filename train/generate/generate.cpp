#include "train/generate/generate.h"

#include <algorithm>
#include <optional>

#include "core/ops.h"
#include "train/config/layouts.h"
#include "train/generate/next_token_logits.h"

namespace filigree {
namespace {

std::int64_t context_of(const Config& config, const GenerateOptions& options) {
  const std::int64_t context = options.max_context > 0 ? options.max_context : config.data.seq_len;
  const ModelConfig& model = config.model;
  if (model.positions == Positions::learned && context > model.max_seq_len)
    throw Error(
        ErrorKind::usage,
        fmt::format("[generate] a context of {} tokens is longer than the model's max_seq_len {}; its "
                    "learned positions end there",
                    context, model.max_seq_len),
        "lower --max-context");
  if (!pattern_fits(config, context))
    throw Error(
        ErrorKind::usage,
        fmt::format("[generate] the model's pattern cannot be built for a context of {} tokens", context),
        fmt::format("leave --max-context out: it was trained with {}", config.data.seq_len));
  return context;
}

struct TextUnderWay {
  std::size_t prompt;
  std::vector<std::int32_t> tokens;
  RandomStream random;
  std::int64_t made = 0;
  Tensor logits = {};
};

class Generation {
 public:
  Generation(const LoadedModel& loaded, const std::vector<std::vector<std::int32_t>>& prompts,
             const GenerateOptions& options, const GenerateCallbacks& callbacks)
      : prompts_(prompts),
        options_(options),
        callbacks_(callbacks),
        length_(generation_length(loaded, prompts, options)),
        texts_(std::min(options.batch, std::ssize(prompts))) {
    const auto make = options.cache && loaded.model->device().is_cpu() ? cached_logits : recomputed_logits;
    logits_ = make(*loaded.model, length_, std::ssize(texts_));
  }

  void run() {
    for (;;) {
      std::vector<std::int64_t> going;
      std::vector<std::int32_t> tokens;
      for (std::size_t i = 0; i < texts_.size(); ++i) {
        if (!texts_[i] && !start(i)) continue;
        const auto id = grow(i);
        if (!id) continue;
        going.push_back(static_cast<std::int64_t>(i));
        tokens.push_back(*id);
      }
      if (!going.empty()) share(going, logits_->next(going, tokens));
      if (next_prompt_ == prompts_.size() &&
          std::ranges::none_of(texts_, [](auto& text) { return text.has_value(); }))
        return;
    }
  }

 private:
  // Begins text i with the next prompt.
  bool start(std::size_t i) {
    if (next_prompt_ == prompts_.size()) return false;
    const std::size_t prompt = next_prompt_++;
    const RandomKey key{options_.seed, random_site("generate"), static_cast<std::uint32_t>(prompt)};
    texts_[i].emplace(TextUnderWay{prompt, prompts_[prompt], RandomStream(key)});
    texts_[i]->logits = logits_->begin(static_cast<std::int64_t>(i), texts_[i]->tokens);
    return true;
  }

  // Chooses a token; it is returned if the model must read it next.
  std::optional<std::int32_t> grow(std::size_t i) {
    TextUnderWay& text = *texts_[i];
    if (!ops::all_finite(text.logits))
      throw Error(ErrorKind::numeric, "[generate] the model's logits are not finite",
                  "the weights are damaged or training diverged; use an earlier checkpoint");
    const std::int32_t id =
        choose_token(text.logits.values<float>(), text.tokens, options_.sampling, text.random.uniform());
    if (!callbacks_.use(text.prompt, id) || ++text.made == options_.tokens) {
      const std::size_t prompt = text.prompt;
      texts_[i].reset();
      callbacks_.done(prompt);
      return std::nullopt;
    }
    text.tokens.push_back(id);
    if (std::ssize(text.tokens) <= length_) return id;
    text.tokens.erase(text.tokens.begin(), text.tokens.end() - std::max<std::int64_t>(1, length_ / 2));
    text.logits = logits_->begin(static_cast<std::int64_t>(i), text.tokens);
    return std::nullopt;
  }

  void share(const std::vector<std::int64_t>& going, const Tensor& logits) {
    for (std::int64_t row = 0; row < std::ssize(going); ++row)
      texts_[going[row]]->logits = logits.slice(row, row + 1);
  }

  const std::vector<std::vector<std::int32_t>>& prompts_;
  const GenerateOptions& options_;
  const GenerateCallbacks& callbacks_;
  std::int64_t length_;
  std::vector<std::optional<TextUnderWay>> texts_;
  std::unique_ptr<NextTokenLogits> logits_;
  std::size_t next_prompt_ = 0;
};

}  // namespace

std::int64_t generation_length(const LoadedModel& loaded,
                               const std::vector<std::vector<std::int32_t>>& prompts,
                               const GenerateOptions& options) {
  const Config& config = loaded.config;
  require(config.model.type == ModelType::decoder,
          "[generate] only a decoder generates text; this model is {}", word(config.model.type));
  const std::int64_t context = context_of(config, options);
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::int64_t length = std::ssize(prompts[i]);
    const std::string which = prompts.size() > 1 ? fmt::format("prompt {}", i + 1) : "the prompt";
    require(length > 0, "[generate] {} has no tokens", which);
    if (length > context)
      throw Error(
          ErrorKind::usage,
          fmt::format("[generate] {} has {} tokens, more than the {} that the model sees", which, length,
                      context),
          config.model.positions == Positions::learned ? "shorten it" : "shorten it, or raise --max-context");
    longest = std::max(longest, length);
  }
  // Layouts no longer than needed, where the pattern allows. What was learned is laid out for the whole
  // context.
  return pattern_fits(config, 1) && !loaded.model->learns() ? std::min(context, longest + options.tokens)
                                                            : context;
}

void generate(const LoadedModel& loaded, const std::vector<std::vector<std::int32_t>>& prompts,
              const GenerateOptions& options, const GenerateCallbacks& callbacks) {
  require(options.batch >= 1 && options.tokens >= 1, "[generate] {} tokens, {} texts at once", options.tokens,
          options.batch);
  Generation(loaded, prompts, options, callbacks).run();
}

}  // namespace filigree
