#include "layers/transformer.h"

#include <algorithm>
#include <utility>

#include "attention/pattern_spec.h"
#include "core/ops.h"
#include "core/parallel.h"
#include "layers/initial.h"

namespace filigree {
namespace {

// Rows of padded sequences see the sequence's real tokens.
Tensor spread_bounds(const Tensor& token_bounds, std::int64_t n) {
  if (token_bounds.device().is_meta())
    return Tensor::empty({token_bounds.dim(0), n, 2}, DType::i32, token_bounds.device());
  const Tensor source = token_bounds.to(Device::cpu());
  const std::int64_t batch = source.dim(0);
  Tensor bounds = Tensor::empty({batch, n, 2}, DType::i32);
  const std::int32_t* from = source.data<std::int32_t>();
  std::int32_t* to = bounds.data<std::int32_t>();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < n; ++i, to += 2) std::copy_n(from + 2 * b, 2, to);
  return bounds.to(token_bounds.device());
}

LayerPatternsPtr full_attention(const ModelConfig& config) {
  const Geometry geometry{std::max<std::int64_t>(1, config.max_seq_len), config.type == ModelType::decoder};
  return std::make_shared<const LayerPatterns>(
      make_layer_patterns(read_pattern(YamlNode::make("full")), config.n_layers, config.n_heads), geometry,
      config.n_heads);
}

void require_fitting(const LayerPatterns& patterns, const ModelConfig& config) {
  require(std::ssize(patterns.layers()) == config.n_layers, "[transformer] patterns of {} layers for {}",
          patterns.layers().size(), config.n_layers);
  require(patterns.n_heads() == config.n_heads, "[transformer] patterns of {} heads given to a model of {}",
          patterns.n_heads(), config.n_heads);
  require(config.type != ModelType::decoder || patterns.training().causal,
          "[transformer] a decoder needs causal patterns");
}

bool finite(Module& module, const Var& output) {
  bool ok = ops::all_finite(output.value());
  module.visit([&](Parameter& p) { ok = ok && ops::all_finite(p.var.value()); });
  return ok;
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, std::uint64_t seed, Device device, DType dtype)
    : Transformer(config, seed, device, dtype, dtype) {}

Transformer::Transformer(const ModelConfig& config, std::uint64_t seed, Device device, DType dtype,
                         DType compute, LayerPatternsPtr patterns)
    : config_(resolved(config)),
      device_(device),
      compute_(compute),
      embedding_site_(random_site("embedding.dropout")),
      token_embedding_({seed, device, dtype}, "token_embedding", config_.vocab_size, config_.dim,
                       kInitialDeviation),
      final_norm_({seed, device, dtype}, "final_norm", config_) {
  const ParameterFactory make{seed, device, dtype};
  if (config_.positions == Positions::learned)
    position_embedding_.emplace(make, "position_embedding", config_.max_seq_len, config_.dim,
                                kInitialDeviation);
  for (int i = 0; i < config_.n_layers; ++i) blocks_.emplace_back(make, fmt::format("blocks.{}", i), config_);
  if (!patterns) patterns = full_attention(config_);
  require_fitting(*patterns, config_);
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    connectivities_.push_back(make_connectivity(make, fmt::format("blocks.{}.pattern", i), patterns, i,
                                                config_.n_kv_heads, config_.head_dim));

  const bool classifier = config_.type == ModelType::encoder_classifier;
  if (config_.type == ModelType::encoder_mlm) {
    mlm_dense_.emplace(make, "mlm.dense", config_.dim, config_.dim, true, kInitialDeviation);
    mlm_norm_.emplace(make, "mlm.norm", config_);
  }
  const std::int64_t outputs = classifier ? config_.n_classes : config_.vocab_size;
  if (classifier || !config_.tied_embeddings)
    head_weight_ = make.normal("head.weight", {outputs, config_.dim}, kInitialDeviation);
  if (config_.type != ModelType::decoder) head_bias_ = make.constant("head.bias", {outputs}, 0);
}

void Transformer::visit(const Visitor& visitor) {
  token_embedding_.visit(visitor);
  if (position_embedding_) position_embedding_->visit(visitor);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].visit(visitor);
    connectivities_[i]->visit(visitor);
  }
  final_norm_.visit(visitor);
  if (mlm_dense_) mlm_dense_->visit(visitor);
  if (mlm_norm_) mlm_norm_->visit(visitor);
  if (head_weight_) visitor(*head_weight_);
  if (head_bias_) visitor(*head_bias_);
}

// The input with its row bounds made, if it fits the model.
ModelInput Transformer::checked(const ModelInput& input) const {
  require(input.tokens.defined() && input.tokens.rank() == 2, "[transformer] tokens must be [B, N]");
  const std::int64_t batch = input.tokens.dim(0), n = input.tokens.dim(1);
  require(config_.positions != Positions::learned || n <= config_.max_seq_len,
          "[transformer] a sequence of {} tokens is longer than max_seq_len {}; learned positions end there",
          n, config_.max_seq_len);
  ModelInput result = input;
  if (!input.token_bounds.defined()) return result;
  require(input.token_bounds.shape() == Shape{batch, 2},
          "[transformer] token_bounds of shape {} for {} sequences", input.token_bounds.shape().str(), batch);
  if (!input.row_bounds.defined()) result.row_bounds = spread_bounds(input.token_bounds, n);
  return result;
}

Var Transformer::embed(const Tensor& tokens, const ForwardContext& context) const {
  Var x = token_embedding_.forward(tokens, compute_);
  if (position_embedding_)
    x = ops::add(x, ops::convert(position_embedding_->first_rows(tokens.dim(1)), compute_));
  return dropout(x, config_.dropout, embedding_site_, context);
}

Block::Residual Transformer::run_block(std::size_t layer, Block::Residual in, const ModelInput& input,
                                       const ForwardContext& context) const {
  const Block& block = blocks_[layer];
  if (!config_.activation_checkpointing)
    return block.forward(std::move(in), *connectivities_[layer], input.row_bounds, context);
  // A checkpoint keeps one tensor: the sum, made here. Gates are made anew, from parameters.
  const auto replay = [this, &block, layer, input, context](const Var& v) {
    const Block::Residual out = block.forward({v, {}}, *connectivities_[layer], input.row_bounds, context);
    return ops::add(out.x, out.branch);
  };
  return {checkpoint(replay, in.x), {}};
}

Var Transformer::forward(const ModelInput& input, const ForwardContext& context) const {
  const ModelInput in = checked(input);
  Block::Residual x{embed(in.tokens, context), {}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) x = run_block(i, std::move(x), in, context);
  return x.branch.defined() ? final_norm_.add_forward(x.x, x.branch).normed : final_norm_.forward(x.x);
}

const Var& Transformer::head_weight() const {
  return head_weight_ ? head_weight_->var : token_embedding_.weight();
}

// The rows that the output projection reads: [B, N, C], classifier [B, C].
Var Transformer::features(const Var& hidden, const ModelInput& input) const {
  switch (config_.type) {
    case ModelType::decoder:
      return hidden;
    case ModelType::encoder_mlm:  // dense, GELU, norm, as in BERT (Devlin et al. 2019)
      return mlm_norm_->forward(ops::gelu(mlm_dense_->forward(hidden)));
    case ModelType::encoder_classifier:
      break;
  }
  if (input.token_bounds.defined()) return ops::mean_rows(hidden, input.token_bounds);
  const std::int64_t batch = hidden.dim(0);
  std::vector<std::int32_t> all;
  for (std::int64_t b = 0; b < batch; ++b)
    all.insert(all.end(), {0, static_cast<std::int32_t>(hidden.dim(1))});
  return ops::mean_rows(hidden, Tensor::of({batch, 2}, all).to(hidden.device()));
}

Var Transformer::loss(const ModelInput& input, const Tensor& targets, const ForwardContext& context,
                      const LossOptions& options) const {
  Var x = features(forward(input, context), input);
  x = ops::reshape(x, {-1, config_.dim});
  require(targets.numel() == x.dim(0), "[transformer] {} targets for {} predictions", targets.numel(),
          x.dim(0));
  return ops::linear_cross_entropy(x, head_weight(), head_bias_ ? head_bias_->var : Var{},
                                   targets.reshape({x.dim(0)}), options.denominator, options.row_losses);
}

Var Transformer::logits(const ModelInput& input, const ForwardContext& context) const {
  return ops::linear(features(forward(input, context), input), head_weight(),
                     head_bias_ ? head_bias_->var : Var{});
}

Var Transformer::logits_at(const ModelInput& input, std::int64_t position,
                           const ForwardContext& context) const {
  const std::int64_t batch = input.tokens.dim(0), n = input.tokens.dim(1);
  require(position >= 0 && position < n, "[transformer] position {} of a sequence of {} tokens", position, n);
  std::vector<std::int32_t> rows;
  for (std::int64_t b = 0; b < batch; ++b) rows.push_back(static_cast<std::int32_t>(b * n + position));
  return logits_of_rows(input, Tensor::of({batch}, rows), context);
}

Var Transformer::logits_of_rows(const ModelInput& input, const Tensor& rows,
                                const ForwardContext& context) const {
  require(config_.type != ModelType::encoder_classifier,
          "[transformer] a classifier has no logits per position");
  const Var hidden = forward(input, context);
  // Picking rows of a matrix is what an embedding does.
  const Var picked = ops::embedding(ops::reshape(hidden, {-1, config_.dim}), rows.to(hidden.device()));
  return ops::linear(features(picked, input), head_weight(), head_bias_ ? head_bias_->var : Var{});
}

Transformer Transformer::attending_with(std::vector<ConnectivityPtr> connectivities) const {
  Transformer copy(*this);
  copy.connectivities_ = std::move(connectivities);
  return copy;
}

Transformer Transformer::as_hardened() const {
  std::vector<ConnectivityPtr> hardened;
  for (const ConnectivityPtr& c : connectivities_) hardened.push_back(filigree::as_hardened(c));
  return attending_with(std::move(hardened));
}

bool Transformer::learns() const {
  return std::ranges::any_of(connectivities_, [](const auto& c) { return c->learns(); });
}

bool Transformer::reads_text() const {
  return std::ranges::any_of(connectivities_, [](const auto& c) { return c->reads_text(); });
}

bool Transformer::patterns_are_static() const {
  return std::ranges::all_of(connectivities_, [](const auto& c) { return c->is_static(); });
}

bool Transformer::patterns_can_harden() const {
  return std::ranges::all_of(connectivities_, [](const auto& c) { return c->can_harden(); });
}

double Transformer::warmup() const {
  double share = 0;
  for (const ConnectivityPtr& c : connectivities_) share = std::max(share, c->warmup());
  return share;
}

// All layers at once: each that learns waits for the device and makes a layout, while the device has nothing
// to do.
void Transformer::advance(const TrainingStage& stage) {
  parallel_tasks(std::ssize(connectivities_), [&](std::int64_t i) {
    Connectivity& layer = *connectivities_[i];
    const bool was_static = layer.is_static();
    layer.advance(stage);
    // Now, while the device is idle, and not in the middle of the forward pass.
    if (!was_static && device_.like_cuda() && !layer.reads_text())
      layer.computed()->on(device_, config_.n_kv_heads);
  });
}

std::vector<LayoutPtr> Transformer::computed_layouts() const {
  std::vector<LayoutPtr> layouts;
  for (const ConnectivityPtr& c : connectivities_) layouts.push_back(c->computed());
  return layouts;
}

std::vector<Tensor> Transformer::attention_mass(const ModelInput& input) const {
  const NoGrad no_tape;
  const ModelInput in = checked(input);
  const ForwardContext context;
  std::vector<Tensor> mass;
  Var x = embed(in.tokens, context);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Connectivity& connectivity = *connectivities_[i];
    mass.push_back(connectivity.reads_text() ? Tensor{}
                                             : blocks_[i].attention_mass(x, connectivity, in.row_bounds));
    x = ops::add(x, blocks_[i].attention_branch(x, connectivity, in.row_bounds, context));
    x = ops::add(x, blocks_[i].mlp_branch(x, context));
  }
  return mass;
}

std::string Transformer::find_non_finite(const ModelInput& input, const ForwardContext& context) {
  const NoGrad no_grad;
  const ModelInput in = checked(input);
  Var x = embed(in.tokens, context);
  if (!finite(token_embedding_, x)) return "token_embedding";
  if (position_embedding_ && !finite(*position_embedding_, x)) return "position_embedding";
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    x = ops::add(x, blocks_[i].attention_branch(x, *connectivities_[i], in.row_bounds, context));
    if (!ops::all_finite(x.value())) return fmt::format("blocks.{}.attention", i);
    x = ops::add(x, blocks_[i].mlp_branch(x, context));
    if (!finite(blocks_[i], x)) return fmt::format("blocks.{}.mlp", i);
  }
  x = final_norm_.forward(x);
  if (!finite(final_norm_, x)) return "final_norm";
  x = ops::linear(features(x, in), head_weight(), head_bias_ ? head_bias_->var : Var{});
  return ops::all_finite(x.value()) ? "" : "head";
}

}  // namespace filigree
