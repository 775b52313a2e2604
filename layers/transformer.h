// Transformers: a decoder (GPT-2 or Llama shaped language model) and encoders with a masked-language-model or
// a classification head. Shapes: B sequences, N positions, C = dim, V = vocab_size.
//
// Parameters, in the order of visit(); matrices are [out, in] (a GPT-2 export transposes them to Conv1D):
//   token_embedding.weight [V, C]
//   position_embedding.weight [max_seq_len, C]     learned positions only
//   blocks.<i>.attention_norm.weight, .bias [C]    bias: layer norm with config.bias
//   blocks.<i>.attention.qkv.weight, .bias         q, k and v in one matrix, see attention_layer.h
//   blocks.<i>.attention.out.weight, .bias
//   blocks.<i>.mlp_norm.weight, .bias
//   blocks.<i>.mlp.gate.weight, .bias              swiglu only
//   blocks.<i>.mlp.up.weight, .bias
//   blocks.<i>.mlp.down.weight, .bias
//   final_norm.weight, .bias
//   mlm.dense.weight, .bias; mlm.norm.weight, .bias    encoder_mlm only
//   blocks.<i>.pattern...                          what learned patterns learn by (attention/learned)
//   head.weight [V, C] ([n_classes, C] for a classifier)    absent where the token embedding is the head
//   head.bias [V] or [n_classes]                       encoders only
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention/connectivity.h"
#include "layers/block.h"
#include "layers/embedding.h"

namespace filigree {

struct ModelInput {
  Tensor tokens;  // i32 [B, N]
  // i32 [B, N, 2]: row n of sequence b attends to keys in [lo, hi) only (documents). Undefined: what
  // token_bounds says, else everything.
  Tensor row_bounds;
  // i32 [B, 2]: the real tokens of sequence b are [lo, hi), the rest is padding. A classifier takes the mean
  // over them. Undefined: all are real.
  Tensor token_bounds;
};

struct LossOptions {
  // The sum of the losses is divided by this, f64 [1] on the model's device; undefined: the number of targets
  // that count. Micro batches of one global batch give that batch's count.
  Tensor denominator = {};
  Tensor* row_losses = nullptr;  // receives the loss of each target, flat; 0 where ignored
};

// True for the name of a parameter that a pattern is learned by: no weight of the model proper.
inline bool is_pattern_parameter(std::string_view name) {
  return name.starts_with("blocks.") && name.find(".pattern.") != name.npos;
}

class DecoderCache;

class Transformer : public Module {
 public:
  // Parameters in `dtype`. `compute`: what activations are stored and products computed in, the parameters'
  // dtype or, on CUDA and beside f32 parameters, bf16. `patterns`: what layers attend with; nullptr: full
  // attention, in tiles of 64.
  Transformer(const ModelConfig& config, std::uint64_t seed, Device device = Device::cpu(),
              DType dtype = DType::f32);
  Transformer(const ModelConfig& config, std::uint64_t seed, Device device, DType dtype, DType compute,
              LayerPatternsPtr patterns = nullptr);
  Transformer(Transformer&&) = default;

  const ModelConfig& config() const { return config_; }  // resolved
  Device device() const { return device_; }
  DType compute_type() const { return compute_; }

  // Hidden states after the final norm, [B, N, C].
  Var forward(const ModelInput& input, const ForwardContext& context) const;

  // Cross-entropy (natural logarithm; the model must outlive and stay where it is until backward) against
  // targets i32 [B, N] (classifier [B]); those equal to ops::kIgnoreIndex do not count. The logits never
  // exist as a whole.
  Var loss(const ModelInput& input, const Tensor& targets, const ForwardContext& context,
           const LossOptions& options = {}) const;

  // [B, N, V]; classifier [B, n_classes].
  Var logits(const ModelInput& input, const ForwardContext& context) const;
  // Logits of one position of each sequence, [B, V]; language models only.
  Var logits_at(const ModelInput& input, std::int64_t position, const ForwardContext& context) const;
  // Logits of the positions listed in `rows` i32 [R], b N + n for position n of sequence b, [R, V]; language
  // models only.
  Var logits_of_rows(const ModelInput& input, const Tensor& rows, const ForwardContext& context) const;

  // Attention mass of every layer, see AttentionLayer::mass; undefined for layers whose tiles depend on the
  // text.
  std::vector<Tensor> attention_mass(const ModelInput& input) const;

  // Decoding token by token (layers/decoder_cache.h), of decoders on the CPU, without a tape. `begin_text`
  // reads a text from its first token on, i32 [N], as sequence s of the cache; `next_token` one token more of
  // each of these sequences, i32 [R]. They give the logits of what follows, [1, V] and [R, V].
  Tensor begin_text(const Tensor& tokens, std::int64_t s, DecoderCache& cache) const;
  Tensor next_token(const Tensor& tokens, std::span<const std::int64_t> sequences, DecoderCache& cache) const;

  // Repeats a forward pass without a tape and names the first module whose parameters or output are not
  // finite, such as "blocks.3.mlp"; empty where all are. For the message after a loss went wrong.
  std::string find_non_finite(const ModelInput& input, const ForwardContext& context);

  // The connectivity of each layer.
  const std::vector<ConnectivityPtr>& connectivities() const { return connectivities_; }
  // The same model, parameters and all, that attends with these.
  Transformer attending_with(std::vector<ConnectivityPtr> connectivities) const;
  // The same as it would be if what it learns to attend to were hardened now.
  Transformer as_hardened() const;

  bool learns() const;               // a layer has heads that learn what to attend to, or have learned it
  bool reads_text() const;           // a layer's tiles depend on its input
  bool patterns_are_static() const;  // no layer's layout changes any more
  bool patterns_can_harden() const;
  double warmup() const;  // the share of a run's steps after which all layers learn that do so
  void advance(const TrainingStage& stage);         // before each step of training
  std::vector<LayoutPtr> computed_layouts() const;  // what a step of training computes now

  void visit(const Visitor& visitor) override;

 private:
  Transformer(const Transformer&) = default;  // shares the parameters: attending_with() makes copies of use

  ModelInput checked(const ModelInput& input) const;
  Var embed(const Tensor& tokens, const ForwardContext& context) const;
  Block::Residual run_block(std::size_t layer, Block::Residual in, const ModelInput& input,
                            const ForwardContext& context) const;
  Var features(const Var& hidden, const ModelInput& input) const;
  const Var& head_weight() const;

  ModelConfig config_;
  Device device_;
  DType compute_;
  std::uint32_t embedding_site_;
  Embedding token_embedding_;
  std::optional<Embedding> position_embedding_;
  std::vector<Block> blocks_;
  std::vector<ConnectivityPtr> connectivities_;  // one per block
  Norm final_norm_;
  std::optional<Linear> mlm_dense_;
  std::optional<Norm> mlm_norm_;
  std::optional<Parameter> head_weight_, head_bias_;
};

}  // namespace filigree
