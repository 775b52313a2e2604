// The shape of a model: what its parameters and its forward pass depend on, beside the sparse layouts.
#pragma once

#include <cstdint>
#include <optional>

#include "core/model_type.h"

namespace filigree {

enum class NormKind { layer_norm, rms_norm };
template <>
inline constexpr Word kWords<NormKind>[] = {
    {"layer_norm", "subtracts the mean, divides by the standard deviation"},
    {"rms_norm", "divides by the root of the mean square"}};

enum class Activation { gelu, gelu_tanh, silu, swiglu };
template <>
inline constexpr Word kWords<Activation>[] = {{"gelu", "x times the normal distribution function of x"},
                                              {"gelu_tanh", "the same by tanh, as GPT-2 computes it"},
                                              {"silu", "x sigmoid(x)"},
                                              {"swiglu", "silu of one projection times another one"}};

enum class Positions { learned, rope, alibi, none };
template <>
inline constexpr Word kWords<Positions>[] = {{"learned", "an embedding per position, up to max_seq_len"},
                                             {"rope", "queries and keys are rotated by their position"},
                                             {"alibi", "scores fall with the distance, at a slope per head"},
                                             {"none", "no positions"}};

inline constexpr std::int64_t kMaxSeqLen = 1 << 28;

struct ModelConfig {
  ModelType type = ModelType::decoder;
  std::int64_t dim = 0;
  int n_layers = 0;
  int n_heads = 0;
  int n_kv_heads = 0;         // 0: n_heads
  std::int64_t head_dim = 0;  // 0: dim / n_heads
  std::int64_t ffn_dim = 0;   // 0: 4 dim; swiglu: 8/3 dim, rounded up to a multiple of 32
  std::int64_t vocab_size = 0;
  std::int64_t max_seq_len = 0;
  std::int64_t n_classes = 0;  // encoder_classifier only
  NormKind norm = NormKind::layer_norm;
  double norm_eps = 1e-5;
  Activation activation = Activation::gelu_tanh;
  Positions positions = Positions::learned;
  double rope_theta = 10000;
  bool bias = true;                       // of linear layers and layer norms
  bool tied_embeddings = true;            // the output projection is the token embedding
  double dropout = 0;                     // after the embedding and on both residual branches
  bool activation_checkpointing = false;  // keep each block's input, recompute the rest (Chen et al. 2016)

  bool operator==(const ModelConfig&) const = default;
};

void fields(Fields& f, ModelConfig& model);

// Derived values in the place of zeros, as far as they can be had, and then what does not fit together.
void fill_derived(ModelConfig& model);
std::optional<Conflict> conflict(const ModelConfig& model);

// The config with derived values in the place of zeros; throws Error(usage) naming the value that does not
// fit.
ModelConfig resolved(ModelConfig config);

}  // namespace filigree
