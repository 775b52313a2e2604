// What the Hopper kernels are given: their problems, from the op's input.
#include <numbers>

#include "attention/cuda/backward_sm90.cuh"
#include "attention/cuda/forward_sm90.cuh"

namespace filigree::cuda::hopper {
namespace {

Problem make_problem(const AttentionInput& in, const DeviceLayout& layout, const WorkList& work,
                     int* ticket) {
  Problem p{};
  p.B = static_cast<int>(in.q.batch());
  p.N = static_cast<int>(in.q.rows());
  p.M = static_cast<int>(in.k.rows());
  p.H = static_cast<int>(in.q.count);
  p.heads_per_kv = static_cast<int>(in.q.count / in.k.count);
  p.sharing = static_cast<int>(in.sharing());
  p.layout_heads = static_cast<int>(in.layout_heads());
  p.tile = in.layout->tile();
  p.query_tiles = static_cast<int>(in.layout->query_tiles());
  p.key_tiles = static_cast<int>(in.layout->key_tiles());
  p.head_pattern = data<std::int32_t>(layout.head_pattern);
  p.row_offsets = data<std::int32_t>(layout.row_offsets);
  p.full_begin = data<std::int32_t>(layout.full_begin);
  p.columns = data<std::int32_t>(layout.columns);
  p.mask_id = data<std::int32_t>(layout.mask_id);
  p.col_offsets = data<std::int32_t>(layout.col_offsets);
  p.rows = data<std::int32_t>(layout.rows);
  p.tile_of = data<std::int32_t>(layout.tile_of);
  p.gate_base = data<std::int64_t>(layout.gate_base);
  p.masks = data<std::uint64_t>(layout.masks);
  check(layout.masks.numel() <= std::numeric_limits<std::int32_t>::max(), "attention: too many masks");
  p.gate = data_or_null<float>(in.gate);
  p.gate_batch_stride = in.gate.defined() && in.gate.rank() == 2 ? in.gate.dim(1) : 0;
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.slopes = data_or_null<float>(in.alibi_slopes);
  p.scale = static_cast<float>(in.scale);
  p.log2_scale = static_cast<float>(in.scale * std::numbers::log2e);
  const std::int64_t n_work = work.n_items * p.sharing;
  check(n_work < std::numeric_limits<std::int32_t>::max() / 2, "attention: too many work items for a launch");
  p.items = static_cast<const WorkItem*>(work.items.raw_data());
  p.n_work = static_cast<int>(n_work);
  p.ticket = ticket;
  return p;
}

CUtensorMap map_of(const Heads& heads) {
  return tensor_map(heads, kGroupRows);
}

}  // namespace

void forward(Context context, const AttentionInput& in, const DeviceLayout& layout, const Results& results) {
  Tensor ticket = workspace<int>(context, 1);
  const ForwardProblem p{make_problem(in, layout, layout.query_groups, data<int>(ticket)), results};
  launch_forward(context, p, {map_of(in.q), map_of(in.k), map_of(in.v)}, static_cast<int>(in.q.dim()));
}

void backward(Context context, const AttentionInput& in, const DeviceLayout& layout, const Tensor& o_grad,
              const Gradients& gradients, Heads& q_grad, Heads& k_grad, Heads& v_grad) {
  const std::int64_t heads = in.q.batch() * in.q.count, blocks = divide_up(in.q.rows(), kBlockRows);
  check(heads * blocks <= std::numeric_limits<std::int32_t>::max(), "attention: too many rows");
  Tensor ticket = workspace<int>(context, 1), turns = workspace<int>(context, heads * blocks);
  Tensor sums = workspace<float>(context, heads * blocks * kBlockRows * in.q.dim());
  const auto rows_of = [](Heads& h) { return Rows{h.data<bfloat16>(), h.row_stride()}; };
  const BackwardProblem p{make_problem(in, layout, layout.key_groups, data<int>(ticket)),
                          gradients,
                          static_cast<int>(blocks),
                          rows_of(q_grad),
                          rows_of(k_grad),
                          rows_of(v_grad),
                          data<float>(sums),
                          data<int>(turns)};
  launch_backward(context, p, {map_of(in.q), map_of(in.k), map_of(in.v), map_of(Heads::all(o_grad))},
                  static_cast<int>(in.q.dim()));
}

}  // namespace filigree::cuda::hopper
