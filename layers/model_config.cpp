#include "layers/model_config.h"

#include "attention/sparse_attention.h"

namespace filigree {

constexpr std::int64_t kMaxDim = 1 << 20;

enum class Preset { gpt2, llama };
template <>
inline constexpr Word kWords<Preset>[] = {
    {"gpt2", "the defaults below"},
    {"llama", "rms_norm, swiglu, rope, no bias, embeddings that are not tied"}};

void fields(Fields& f, ModelConfig& c) {
  Preset preset = Preset::gpt2;
  f.word("preset", preset, "the model whose choices are the defaults of the keys below", {.print = false});
  if (preset == Preset::llama) {
    c.norm = NormKind::rms_norm;
    c.activation = Activation::swiglu;
    c.positions = Positions::rope;
    c.bias = c.tied_embeddings = false;
  }
  f.word("type", c.type, "what the model is for");
  f.integer("dim", required(c.dim), between(1, kMaxDim), "features of a token between the blocks");
  f.integer("n_layers", required(c.n_layers), between(1, 10000), "blocks of attention and MLP");
  f.integer("n_heads", required(c.n_heads), between(1, 10000), "heads of the queries, per layer");
  f.integer("n_kv_heads", {c.n_kv_heads, c.n_heads}, between(1, 10000),
            "heads of the keys and values, each shared by n_heads / n_kv_heads heads of the queries",
            {.default_text = "n_heads", .print = c.n_kv_heads > 0});
  f.integer("head_dim", c.head_dim, between(1, kMaxDim), "features of a head, at most 256",
            {.default_text = "dim / n_heads", .print = c.head_dim > 0});
  f.integer("ffn_dim", c.ffn_dim, between(1, 8 * kMaxDim), "features inside the MLP",
            {.default_text = "4 dim; swiglu: 8/3 dim", .print = c.ffn_dim > 0});
  f.integer("vocab_size", c.vocab_size, between(0, 1 << 30), "tokens of the vocabulary; 0: as the data has",
            {.unit = "tokens"});
  f.integer("max_seq_len", c.max_seq_len, between(1, kMaxSeqLen),
            "longest sequence; learned positions end there",
            {.unit = "tokens", .default_text = "data.seq_len", .print = c.max_seq_len > 0});
  const Use classifier = with("type", c.type, ModelType::encoder_classifier);
  f.integer("n_classes", c.n_classes, between(0, 1 << 30), "classes; 0: as the data has, else at least 2",
            {.use = classifier});
  f.word("norm", c.norm, "the norm before attention, the MLP and the output");
  f.number("norm_eps", c.norm_eps, above(0), "added to the norm's variance");
  f.word("activation", c.activation, "the nonlinearity of the MLP");
  f.word("positions", c.positions, "how attention knows where a token stands");
  f.number("rope_theta", c.rope_theta, above(0), "base of the wave lengths of rope",
           {.use = with("positions", c.positions, Positions::rope)});
  f.boolean("bias", c.bias, "whether linear layers and layer norms have a bias");
  f.boolean("tied_embeddings", c.tied_embeddings, "whether the output projection is the token embedding",
            {.use = {.applies = !classifier.applies,
                     .where = "unless type: encoder_classifier",
                     .reason = "by type: encoder_classifier, which has no output embedding"}});
  f.number("dropout", c.dropout, fraction(),
           "share of the features dropped after the embedding and on both residual branches");
  f.boolean("activation_checkpointing", c.activation_checkpointing,
            "keep the input of each block only and recompute the rest: less memory, a third more time");
}

void fill_derived(ModelConfig& c) {
  if (c.n_kv_heads == 0) c.n_kv_heads = c.n_heads;
  if (c.head_dim == 0 && c.dim % c.n_heads == 0) c.head_dim = c.dim / c.n_heads;
  // SwiGLU has three matrices for two: 8/3 dim keeps the parameter count of 4 dim (Shazeer 2020).
  if (c.ffn_dim == 0)
    c.ffn_dim = c.activation == Activation::swiglu ? (c.dim * 8 / 3 + 31) / 32 * 32 : 4 * c.dim;
}

std::optional<Conflict> conflict(const ModelConfig& c) {
  if (c.head_dim == 0)
    return Conflict{"n_heads",
                    fmt::format("model.n_heads must divide model.dim: {} / {} leaves {}", c.dim, c.n_heads,
                                c.dim % c.n_heads),
                    "change one of them, or set model.head_dim"};
  if (c.head_dim > kMaxHeadDim)
    return Conflict{"head_dim",
                    fmt::format("the head dimension must be at most {}, not {}", kMaxHeadDim, c.head_dim),
                    "take more heads, or set model.head_dim"};
  if (c.n_heads % c.n_kv_heads != 0)
    return Conflict{"n_kv_heads", fmt::format("model.n_kv_heads must divide model.n_heads: {} / {} leaves {}",
                                              c.n_heads, c.n_kv_heads, c.n_heads % c.n_kv_heads)};
  if (c.positions == Positions::rope && c.head_dim % 2 != 0)
    return Conflict{"head_dim", fmt::format("positions: rope turns pairs of values: head_dim {} must be even",
                                            c.head_dim)};
  return std::nullopt;
}

ModelConfig resolved(ModelConfig c) {
  // Each value is in its range if it can be read again.
  FieldPrinter printer;
  fields(printer, c);
  const YamlNode printed = printer.take();
  MapReader map(printed, "model");
  FieldReader reader(map);
  fields(reader, c);

  fill_derived(c);
  if (const auto found = conflict(c)) throw Error(ErrorKind::usage, found->message, found->hint);
  require(c.vocab_size >= 1, "[model] vocab_size is {}; it must be at least 1", c.vocab_size);
  require(c.positions != Positions::learned || c.max_seq_len >= 1,
          "[model] learned positions need max_seq_len, which is {}", c.max_seq_len);
  require(c.type != ModelType::encoder_classifier || c.n_classes >= 1,
          "[model] n_classes is {}; a classifier needs at least 1", c.n_classes);
  return c;
}

}  // namespace filigree
