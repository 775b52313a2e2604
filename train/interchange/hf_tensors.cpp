// The names of tensors here and in transformers.
#include "train/interchange/hf_model.h"

namespace filigree {
namespace {

class TensorList {
 public:
  explicit TensorList(bool conv1d) : conv1d_(conv1d) {}

  void add(const std::string& theirs, const std::string& ours, const Shape& shape, std::int64_t row = 0) {
    tensors_.push_back({theirs, ours, row, shape, false});
  }
  // Weight and bias of a linear layer: rows [row, row + out) of ours.
  void add_linear(const std::string& theirs, const std::string& ours, std::int64_t out, std::int64_t in,
                  bool bias, std::int64_t row = 0) {
    tensors_.push_back({theirs + ".weight", ours + ".weight", row, {out, in}, conv1d_});
    if (bias) add(theirs + ".bias", ours + ".bias", {out}, row);
  }
  void add_norm(const std::string& theirs, const std::string& ours, std::int64_t dim, bool bias) {
    add(theirs + ".weight", ours + ".weight", {dim});
    if (bias) add(theirs + ".bias", ours + ".bias", {dim});
  }
  std::vector<HfTensor> take() { return std::move(tensors_); }

 private:
  bool conv1d_;
  std::vector<HfTensor> tensors_;
};

void add_gpt2_block(TensorList& list, const ModelConfig& c, int i) {
  const std::string theirs = fmt::format("transformer.h.{}.", i), ours = fmt::format("blocks.{}.", i);
  const std::int64_t inner = c.n_heads * c.head_dim;
  list.add_norm(theirs + "ln_1", ours + "attention_norm", c.dim, true);
  list.add_linear(theirs + "attn.c_attn", ours + "attention.qkv", 3 * inner, c.dim, true);
  list.add_linear(theirs + "attn.c_proj", ours + "attention.out", c.dim, inner, true);
  list.add_norm(theirs + "ln_2", ours + "mlp_norm", c.dim, true);
  list.add_linear(theirs + "mlp.c_fc", ours + "mlp.up", c.ffn_dim, c.dim, true);
  list.add_linear(theirs + "mlp.c_proj", ours + "mlp.down", c.dim, c.ffn_dim, true);
}

void add_llama_block(TensorList& list, const ModelConfig& c, int i) {
  const std::string theirs = fmt::format("model.layers.{}.", i), ours = fmt::format("blocks.{}.", i);
  const std::int64_t q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;
  list.add_norm(theirs + "input_layernorm", ours + "attention_norm", c.dim, false);
  list.add_linear(theirs + "self_attn.q_proj", ours + "attention.qkv", q, c.dim, c.bias);
  list.add_linear(theirs + "self_attn.k_proj", ours + "attention.qkv", kv, c.dim, c.bias, q);
  list.add_linear(theirs + "self_attn.v_proj", ours + "attention.qkv", kv, c.dim, c.bias, q + kv);
  list.add_linear(theirs + "self_attn.o_proj", ours + "attention.out", c.dim, q, c.bias);
  list.add_norm(theirs + "post_attention_layernorm", ours + "mlp_norm", c.dim, false);
  list.add_linear(theirs + "mlp.gate_proj", ours + "mlp.gate", c.ffn_dim, c.dim, c.bias);
  list.add_linear(theirs + "mlp.up_proj", ours + "mlp.up", c.ffn_dim, c.dim, c.bias);
  list.add_linear(theirs + "mlp.down_proj", ours + "mlp.down", c.dim, c.ffn_dim, c.bias);
}

}  // namespace

std::vector<HfTensor> hf_tensors(const HfModel& model) {
  const ModelConfig& c = model.config;
  const bool gpt2 = model.architecture == Architecture::gpt2;
  TensorList list(gpt2);
  list.add(gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight", "token_embedding.weight",
           {c.vocab_size, c.dim});
  if (gpt2) list.add("transformer.wpe.weight", "position_embedding.weight", {c.max_seq_len, c.dim});
  for (int i = 0; i < c.n_layers; ++i) gpt2 ? add_gpt2_block(list, c, i) : add_llama_block(list, c, i);
  list.add_norm(gpt2 ? "transformer.ln_f" : "model.norm", "final_norm", c.dim, gpt2);
  if (!c.tied_embeddings) list.add("lm_head.weight", "head.weight", {c.vocab_size, c.dim});
  return list.take();
}

}  // namespace filigree
