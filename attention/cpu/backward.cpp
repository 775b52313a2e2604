// Backward: the five products of each tile once each (a pass for dq and a second one for dk, dv would need
// seven), no atomics on results, no copy of any gradient, and the same bits for any number of threads.
//
// A task owns the tiles of one key tile whose query tiles lie in one block of rows, over all the heads of a
// kv group. It keeps its dk and dv in scratch, and adds to q_grad, k_grad and v_grad when it is its turn: the
// turns of a query tile go by descending key tile, those of a key tile by ascending row block. Tasks start in
// the order (row block, descending key tile), so whoever has to be waited for started earlier: no deadlock.
// Waits are rare, because within a task the rows ascend: of a local window the task before is always a row
// ahead, long columns (global tokens) come last, and batches and heads, which share nothing, alternate.
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "attention/cpu/problem.h"
#include "core/parallel.h"

namespace filigree::cpu {
namespace {

constexpr std::int64_t kBlockRows = 2048;  // of queries; a task is at most so long
constexpr std::int64_t kGroupRows = 64;    // query tiles smaller than this are gathered for one product

// Who may add next, for each of a number of tiles.
class Turns {
 public:
  explicit Turns(std::int64_t tiles) : next_(tiles) {}

  void wait(std::int64_t tile, std::int32_t turn) const {
    const auto& next = next_[tile];
    for (int spins = 0; next.load(std::memory_order_acquire) != turn; ++spins) {
      check(!abandoned_.load(std::memory_order_relaxed), "another task of the attention backward failed");
      if (spins > 100) std::this_thread::yield();
    }
  }
  void pass(std::int64_t tile, std::int32_t turn) { next_[tile].store(turn + 1, std::memory_order_release); }
  void abandon() { abandoned_.store(true, std::memory_order_relaxed); }

 private:
  std::vector<std::atomic<std::int32_t>> next_;
  std::atomic<bool> abandoned_{false};
};

struct Task {
  std::int32_t g, block, key_tile;
  std::int32_t turn;  // of this key tile
};

template <class T>
class Backward {
 public:
  Backward(const AttentionInput& in, const Tensor& lse, const Tensor& o_grad, const Tensor& delta,
           Heads& q_grad, Heads& k_grad, Heads& v_grad, Tensor& gate_grad)
      : p_(in),
        block_tiles_(kBlockRows / p_.tile),
        group_tiles_(std::max<std::int64_t>(1, kGroupRows / p_.tile)),
        group_rows_(group_tiles_ * p_.tile),
        tile_elements_(p_.tile * p_.padded_dim),
        group_elements_(group_rows_ * p_.padded_dim),
        score_stride_((group_rows_ + 1) *
                      L),  // one line more than needed: else a row's lines share a cache set
        lse_(lse.data<T>()),
        o_grad_(o_grad.data<T>()),
        delta_(delta.data<T>()),
        q_grad_(q_grad.data<T>()),
        k_grad_(k_grad.data<T>()),
        v_grad_(v_grad.data<T>()),
        gate_grad_(gate_grad.defined() ? gate_grad.data<T>() : nullptr),
        scratch_(5 * tile_elements_ + 3 * group_elements_ + 2 * p_.tile / L * score_stride_ +
                 2 * group_rows_),
        query_turns_(p_.B * p_.H * p_.layout.query_tiles()),
        key_turns_(p_.B * p_.G * p_.layout.key_tiles()) {}

  void run() {
    const std::vector<Task> tasks = make_tasks();
    parallel_tasks(std::ssize(tasks) * p_.sharing, [&](std::int64_t i) {
      try {
        Task task = tasks[i / p_.sharing];
        const std::int64_t b = i % p_.sharing + task.g / p_.G;
        task.g %= static_cast<std::int32_t>(p_.G);
        run_task(b, task);
      } catch (...) {
        query_turns_.abandon();
        key_turns_.abandon();
        throw;
      }
    });
  }

 private:
  static constexpr int L = kLine<T>;
  // e^(S - lse) of a gate near 0 may be anything; above 2^100 (f32) it is cut, so that m e^(S - lse) stays 0
  // at m = 0 and the gate's gradient finite.
  static constexpr T kGreatestExponent = sizeof(T) == 4 ? 100 : 900;

  struct Member {  // a query tile of a group
    std::int64_t tile_number, query_tile;
    T gate;
    RowBounds bounds;
  };

  struct Buffers {
    T *keys_transposed, *values_transposed, *keys, *k_grad, *v_grad;  // of the key tile
    T *queries, *o_grad, *q_grad, *p, *ds;                            // of a group
    T *log2_sum, *delta;
  };

  // Those of the layout's kv heads.
  std::vector<Task> make_tasks() const {
    std::vector<Task> tasks;
    std::vector<bool> present(p_.layout.query_tiles() / block_tiles_ + 1);
    const std::int64_t kv_heads = p_.layout.n_heads() / (p_.H / p_.G);
    for (std::int64_t g = 0; g < kv_heads; ++g)
      for (std::int64_t key_tile = 0; key_tile < p_.layout.key_tiles(); ++key_tile) {
        std::fill(present.begin(), present.end(), false);
        for (std::int64_t h = first_head(g); h < first_head(g + 1); ++h) {
          const TilePattern& pattern = p_.layout.of_head(static_cast<int>(h));  // h of the layout
          for (auto e = pattern.col_offsets[key_tile]; e < pattern.col_offsets[key_tile + 1]; ++e)
            present[pattern.rows[e] / block_tiles_] = true;
        }
        std::int32_t turn = 0;
        for (std::size_t block = 0; block < present.size(); ++block)
          if (present[block])
            tasks.push_back({static_cast<std::int32_t>(g), static_cast<std::int32_t>(block),
                             static_cast<std::int32_t>(key_tile), turn++});
      }
    std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
      if (a.block != b.block) return a.block < b.block;
      return a.key_tile != b.key_tile ? a.key_tile > b.key_tile : a.g < b.g;
    });
    return tasks;
  }

  std::int64_t first_head(std::int64_t g) const { return g * (p_.H / p_.G); }

  Buffers take_buffers(typename ScratchPool<T>::Loan& scratch) const {
    Buffers to;
    for (T** p : {&to.keys_transposed, &to.values_transposed, &to.keys, &to.k_grad, &to.v_grad})
      *p = scratch.take(tile_elements_);
    for (T** p : {&to.queries, &to.o_grad, &to.q_grad}) *p = scratch.take(group_elements_);
    for (T** p : {&to.p, &to.ds}) *p = scratch.take(p_.tile / L * score_stride_);
    for (T** p : {&to.log2_sum, &to.delta}) *p = scratch.take(group_rows_);
    return to;
  }

  void run_task(std::int64_t b, const Task& task) {
    typename ScratchPool<T>::Loan scratch(scratch_);
    const Buffers buffers = take_buffers(scratch);
    const std::int64_t first = task.key_tile * p_.tile;
    const std::int64_t keys = p_.k_offset(b, first, task.g), values = p_.v_offset(b, first, task.g);
    const std::int64_t key_rows = p_.key_rows(task.key_tile), stride = p_.tile * L;
    pack_transposed(p_.k + keys, p_.k_stride, key_rows, p_.tile, p_.D, p_.padded_dim,
                    buffers.keys_transposed);
    pack_transposed(p_.v + values, p_.v_stride, key_rows, p_.tile, p_.D, p_.padded_dim,
                    buffers.values_transposed);
    pack_rows(p_.k + keys, p_.k_stride, key_rows, p_.tile, p_.D, T(1), buffers.keys, stride);
    std::fill_n(buffers.k_grad, tile_elements_, T(0));
    std::fill_n(buffers.v_grad, tile_elements_, T(0));

    for (std::int64_t h = first_head(task.g); h < first_head(task.g + 1); ++h)
      head_column(b, h, task, buffers);

    const std::int64_t turn_of = (b * p_.G + task.g) * p_.layout.key_tiles() + task.key_tile;
    key_turns_.wait(turn_of, task.turn);
    // The queries were scaled by scale log2(e) for S; dk = scale dS^T q.
    add_rows(buffers.k_grad, stride, key_rows, p_.D, static_cast<T>(kLn2), k_grad_ + keys, p_.k_stride);
    add_rows(buffers.v_grad, stride, key_rows, p_.D, T(1), v_grad_ + values, p_.v_stride);
    key_turns_.pass(turn_of, task.turn);
  }

  // The tiles of one head in the task, in groups.
  void head_column(std::int64_t b, std::int64_t h, const Task& task, const Buffers& buffers) {
    const TilePattern& pattern = p_.pattern(b, h);
    const auto rows = pattern.rows.begin();
    const auto column_end = rows + pattern.col_offsets[task.key_tile + 1];
    const auto begin =
        std::lower_bound(rows + pattern.col_offsets[task.key_tile], column_end, task.block * block_tiles_);
    const auto end = std::lower_bound(begin, column_end, (task.block + 1) * block_tiles_);
    std::vector<Member> group;
    group.reserve(group_tiles_);
    const auto flush = [&] {
      if (!group.empty()) run_group(b, h, task.key_tile, group, buffers);
      group.clear();
    };
    for (auto entry = begin; entry != end; ++entry) {
      const std::int64_t t = pattern.tile_of[entry - rows];
      Member& member = group.emplace_back();
      member.tile_number = t;
      member.query_tile = *entry;
      member.gate = p_.gate_of(b, h, t);
      member.bounds.load(p_, b, *entry);
      const bool wanted = member.gate != 0 || gate_grad_;
      if (!wanted || !member.bounds.touch(task.key_tile * p_.tile, (task.key_tile + 1) * p_.tile)) {
        group.pop_back();
        flush();
        pass_by(b, h, task.key_tile, *entry);
      } else if (std::ssize(group) == group_tiles_) {
        flush();
      }
    }
    flush();
  }

  // This key tile's place in the query tile's turns: the number of greater key tiles in its row.
  std::int32_t turn(std::int64_t b, std::int64_t h, std::int64_t key_tile, std::int64_t query_tile) const {
    const TilePattern& pattern = p_.pattern(b, h);
    const auto columns = pattern.columns.begin();
    const auto full = columns + pattern.full_begin[query_tile];
    const auto end = columns + pattern.row_offsets[query_tile + 1];
    const auto begin = columns + pattern.row_offsets[query_tile];
    return static_cast<std::int32_t>((full - std::upper_bound(begin, full, key_tile)) +
                                     (end - std::upper_bound(full, end, key_tile)));
  }

  void pass_by(std::int64_t b, std::int64_t h, std::int64_t key_tile, std::int64_t query_tile) {
    const std::int64_t turn_of = (b * p_.H + h) * p_.layout.query_tiles() + query_tile;
    const std::int32_t mine = turn(b, h, key_tile, query_tile);
    query_turns_.wait(turn_of, mine);
    query_turns_.pass(turn_of, mine);
  }

  void run_group(std::int64_t b, std::int64_t h, std::int64_t key_tile, const std::vector<Member>& group,
                 const Buffers& to) {
    const TilePattern& pattern = p_.pattern(b, h);
    const std::int64_t rows = std::ssize(group) * p_.tile, row_stride = group_rows_ * L;
    const std::int64_t key_stride = p_.tile * L, transposed_stride = p_.padded_dim * L;
    const auto dim_chunks = static_cast<int>(p_.padded_dim / L), key_chunks = static_cast<int>(p_.tile / L);
    const auto row_chunks = static_cast<int>(rows / L);
    load_group(b, h, group, to);

    const T* keys_transposed = to.keys_transposed;
    tile_product<false, T>(rows, p_.tile, {to.queries, row_stride},
                           {&keys_transposed, transposed_stride, 1, dim_chunks}, {to.p, score_stride_},
                           Update::assign);
    for (std::size_t i = 0; i < group.size(); ++i)
      finish_scores(p_, h, group[i].query_tile, key_tile, pattern.mask_id[group[i].tile_number],
                    group[i].bounds, to.p + static_cast<std::int64_t>(i) * p_.tile * L, score_stride_);
    const T* values_transposed = to.values_transposed;
    tile_product<false, T>(rows, p_.tile, {to.o_grad, row_stride},
                           {&values_transposed, transposed_stride, 1, dim_chunks}, {to.ds, score_stride_},
                           Update::assign);
    for (std::size_t i = 0; i < group.size(); ++i)
      softmax_backward(b, h, group[i], static_cast<std::int64_t>(i) * p_.tile, to);

    const T* o_grad = to.o_grad;
    tile_product<true, T>(p_.tile, p_.padded_dim, {to.p, score_stride_}, {&o_grad, row_stride, 1, row_chunks},
                          {to.v_grad, key_stride}, Update::add);
    const T* queries = to.queries;
    tile_product<true, T>(p_.tile, p_.padded_dim, {to.ds, score_stride_},
                          {&queries, row_stride, 1, row_chunks}, {to.k_grad, key_stride}, Update::add);
    const T* keys = to.keys;
    tile_product<false, T>(rows, p_.padded_dim, {to.ds, score_stride_}, {&keys, key_stride, 1, key_chunks},
                           {to.q_grad, row_stride}, Update::assign);
    for (std::size_t i = 0; i < group.size(); ++i) {
      const std::int64_t query_tile = group[i].query_tile;
      const std::int64_t turn_of = (b * p_.H + h) * p_.layout.query_tiles() + query_tile;
      const std::int32_t mine = turn(b, h, key_tile, query_tile);
      query_turns_.wait(turn_of, mine);
      add_rows(to.q_grad + static_cast<std::int64_t>(i) * p_.tile * L, row_stride, p_.query_rows(query_tile),
               p_.D, static_cast<T>(p_.scale), q_grad_ + p_.q_offset(b, query_tile * p_.tile, h),
               p_.q_stride);
      query_turns_.pass(turn_of, mine);
    }
  }

  void load_group(std::int64_t b, std::int64_t h, const std::vector<Member>& group, const Buffers& to) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    const std::int64_t row_stride = group_rows_ * L;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const std::int64_t first = group[i].query_tile * p_.tile,
                         place = static_cast<std::int64_t>(i) * p_.tile;
      const std::int64_t rows = p_.query_rows(group[i].query_tile);
      pack_rows(p_.q + p_.q_offset(b, first, h), p_.q_stride, rows, p_.tile, p_.D,
                static_cast<T>(p_.scale * kLog2E), to.queries + place * L, row_stride);
      pack_rows(o_grad_ + p_.o_offset(b, first, h), p_.H * p_.D, rows, p_.tile, p_.D, T(1),
                to.o_grad + place * L, row_stride);
      const std::int64_t of_rows = (b * p_.H + h) * p_.N + first;
      for (std::int64_t r = 0; r < p_.tile; ++r) {
        const T lse = r < rows ? lse_[of_rows + r] : -kInfinity;
        // A row without keys has lse = -inf; +inf here makes all its probabilities 0.
        to.log2_sum[place + r] = lse == -kInfinity ? kInfinity : static_cast<T>(lse * kLog2E);
        to.delta[place + r] = r < rows ? delta_[of_rows + r] : T(0);
      }
    }
  }

  // Rows [first, first + T) of the group: S -> P and dP -> dS, and the gate's gradient.
  void softmax_backward(std::int64_t b, std::int64_t h, const Member& member, std::int64_t first,
                        const Buffers& to) {
    const Vector<T> gate = broadcast(member.gate), greatest_exponent = broadcast(kGreatestExponent);
    Vector<T> gate_grad[kVectors] = {};
    for (std::int64_t r = first; r < first + p_.tile; ++r) {
      const T log2_sum = to.log2_sum[r], delta = to.delta[r];
      for (std::int64_t c = 0; c < p_.tile / L; ++c)
        for (int v = 0; v < kVectors; ++v) {
          const std::int64_t place = c * score_stride_ + r * L + v * kLanes<T>;
          const Vector<T> exponent = load(to.p + place) - log2_sum;
          const Vector<T> p0 = exp2<T>(exponent > greatest_exponent ? greatest_exponent : exponent);
          const Vector<T> dp = load(to.ds + place) - delta;
          const Vector<T> p = gate * p0;
          store(to.p + place, p);
          store(to.ds + place, p * dp);
          gate_grad[v] += p0 * dp;
        }
    }
    if (!gate_grad_) return;
    for (int v = 1; v < kVectors; ++v) gate_grad[0] += gate_grad[v];
    const std::int64_t of_sequence = p_.sharing == 1 ? 0 : b * p_.layout.gate_size();
    gate_grad_[of_sequence + p_.layout.gate_offset(p_.layout_head(b, h)) + member.tile_number] +=
        sum_lanes<T>(gate_grad[0]);
  }

  Problem<T> p_;
  std::int64_t block_tiles_, group_tiles_, group_rows_, tile_elements_, group_elements_, score_stride_;
  const T *lse_, *o_grad_, *delta_;
  T *q_grad_, *k_grad_, *v_grad_, *gate_grad_;
  ScratchPool<T> scratch_;
  Turns query_turns_, key_turns_;
};

// delta [B, H, N] = rowsum(o_grad * o).
template <class T>
void row_products(const Tensor& o, const Tensor& o_grad, Tensor& delta) {
  constexpr int L = kLine<T>;
  const std::int64_t B = o.dim(0), N = o.dim(1), H = o.dim(2), D = o.dim(3);
  const T *a = o.data<T>(), *c = o_grad.data<T>();
  T* to = delta.data<T>();
  parallel_for(B * N, 64, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t h = 0; h < H; ++h) {
        const T *x = a + (row * H + h) * D, *y = c + (row * H + h) * D;
        Vector<T> sum[kVectors] = {};
        std::int64_t d = 0;
        for (; d + L <= D; d += L)
          for (int v = 0; v < kVectors; ++v)
            sum[v] += load(x + d + v * kLanes<T>) * load(y + d + v * kLanes<T>);
        for (int v = 1; v < kVectors; ++v) sum[0] += sum[v];
        T total = sum_lanes<T>(sum[0]);
        for (; d < D; ++d) total += x[d] * y[d];
        to[(row / N * H + h) * N + row % N] = total;
      }
  });
}

// The heads' rows, which may lie between those of others.
void fill_zero(Heads& heads) {
  const std::int64_t bytes = heads.count * heads.dim() * dtype_size(heads.tensor.dtype());
  const std::int64_t stride = heads.row_stride() * dtype_size(heads.tensor.dtype());
  char* const first = static_cast<char*>(heads.tensor.raw_data()) +
                      heads.first * heads.dim() * dtype_size(heads.tensor.dtype());
  parallel_for(heads.batch() * heads.rows(), 64, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) std::memset(first + row * stride, 0, bytes);
  });
}

}  // namespace

void sparse_attention_backward(Context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                               const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad,
                               Heads& v_grad, Tensor& gate_grad) {
  for (Heads* grad : {&q_grad, &k_grad, &v_grad}) fill_zero(*grad);
  if (gate_grad.defined()) gate_grad.fill_zero();
  with_float(in.dtype(), [&]<class T>(T) {
    row_products<T>(o, o_grad, delta);
    Backward<T>(in, lse, o_grad, delta, q_grad, k_grad, v_grad, gate_grad).run();
  });
}

}  // namespace filigree::cpu
