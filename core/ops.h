// Differentiable operations. Device-free: each calls kernels (core/kernels.h) through on_device().
// Shapes: B batch, N positions, H heads, D head dim, C features; "..." any leading dimensions.
// Every op throws Error(usage) "[op] ..." on shapes or dtypes that do not fit. Computing dtypes: f32 and f64,
// on CUDA also bf16 (computed and summed in f32, stored in bf16). Parameters may be f32 beside bf16 inputs:
// matrix products round a weight to bf16 for the product and give its gradient in f32; norms use them as they
// are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/autograd.h"
#include "core/elementwise.h"
#include "core/ignore_index.h"
#include "core/random.h"
#include "core/tensor_ops.h"

namespace filigree::ops {

// --- elementwise ---
Var add(const Var& a, const Var& b);  // equal shapes, or b's shape is a suffix of a's (bias)
Var sub(const Var& a, const Var& b);  // equal shapes
Var mul(const Var& a, const Var& b);  // equal shapes, or b's shape is a suffix of a's
Var scale(const Var& x, double factor);
Var exp(const Var& x);
Var log(const Var& x);
Var sigmoid(const Var& x);
// x cut to [low, high]. The gradient of what was cut is 0, or `through`: as if it had not been cut (the
// straight-through estimator, Bengio et al. 2013).
enum class Cut { stop, through };
Var clamp(const Var& x, double low, double high, Cut gradient = Cut::stop);
// x; its gradient cut to [-limit, limit].
Var limit_gradient(const Var& x, double limit);
using elementwise::Gelu;
Var gelu(const Var& x, Gelu kind = Gelu::erf);  // Hendrycks & Gimpel 2016
Var silu(const Var& x);
// Inverted dropout; draw i decides element i. p = 0 returns x.
// `step`, u32 [1] on x's device, if defined, is added to key.step when the kernel runs.
Var dropout(const Var& x, double p, RandomKey key, const Tensor& step = {});
Var convert(const Var& x, DType type);  // between f32, f64 and bf16; the gradient comes back in x's dtype

// --- shape ---
Var reshape(const Var& x, const Shape& shape);                                   // one dimension may be -1
Var slice(const Var& x, std::int64_t begin, std::int64_t end);                   // of the leading dimension
std::vector<Var> split_last(const Var& x, std::span<const std::int64_t> sizes);  // along the last dimension
Var concat_last(std::span<const Var> parts);                                     // along the last dimension
Var permute(const Var& x, std::span<const int> order);  // a copy with dimensions reordered

// --- reductions ---
Var sum(const Var& x);                                  // scalar, shape [1]
Var sum_last(const Var& x);                             // [..., C] -> [...]
Var mean_rows(const Var& x, const Tensor& row_bounds);  // [B, N, C] -> [B, C]: mean over n in
                                                        // [lo, hi) of row_bounds i32 [B, 2]

// --- matrix products ---
// op(a) op(b): [M, K] [K, N] -> [M, N], or batched with equal leading dimensions.
Var matmul(const Var& a, const Var& b, bool transpose_a = false, bool transpose_b = false);
// x w^T + bias: x [..., in], w [out, in], bias [out] or undefined -> [..., out].
Var linear(const Var& x, const Var& w, const Var& bias = {});
struct Weights {
  Var w, bias;  // of a linear layer; bias may be undefined
};
// linear(gelu(linear(x, up)), down), and linear(silu(linear(x, gate)) * linear(x, up), down) (Shazeer 2020).
// They keep what goes into the activation but not what comes out: backward computes that again.
Var gelu_mlp(const Var& x, const Weights& up, const Weights& down, Gelu kind);
Var swiglu_mlp(const Var& x, const Weights& gate, const Weights& up, const Weights& down);

// --- normalisation ---
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps);  // bias may be undefined
Var rms_norm(const Var& x, const Var& weight, double eps);                     // Zhang & Sennrich 2019
// x + branch and its norm, in one pass over memory.
struct Normed {
  Var sum, normed;
};
Normed add_layer_norm(const Var& x, const Var& branch, const Var& weight, const Var& bias, double eps);
Normed add_rms_norm(const Var& x, const Var& branch, const Var& weight, double eps);
Var softmax(const Var& x);  // over the last dimension

// --- models ---
// table [V, C], ids i32 [...] -> [..., C], of the table's dtype or bf16 beside an f32 table.
Var embedding(const Var& table, const Tensor& ids);
Var embedding(const Var& table, const Tensor& ids, DType type);
// Mean over targets that are not kIgnoreIndex of -log softmax(logits)[target]; logits [R, V], targets i32
// [R]. 0 with zero gradients where every target is ignored.
Var cross_entropy(const Var& logits, const Tensor& targets);
// cross_entropy(linear(x, w, bias), targets) in chunks of rows: the full logits never exist. x [R, C], w [V,
// C]. `row_losses`, if given, receives the loss of each row (0 where ignored), f32/f64 [R]. `denominator`,
// f64 [1] on x's device: what the sum is divided by; undefined means the number of targets that count.
Var linear_cross_entropy(const Var& x, const Var& w, const Var& bias, const Tensor& targets,
                         const Tensor& denominator = {}, Tensor* row_losses = nullptr);

}  // namespace filigree::ops
