// Matrix products by cuBLASLt: descriptions in its column-major terms, and the choice of an algorithm, which
// is made once per shape and kept.
//
// Runs must repeat bit for bit, and which algorithm is fastest is measured. So measuring chooses only among
// those that give the bits of cuBLASLt's first proposal, which depends on nothing but the shape, the card and
// the version: they are compared on random operands, where another order of summation shows. Hence a run may
// measure differently, too little or (while a graph is captured, or without memory to spare) not at all, and
// computes the same.
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/backend.h"
#include "core/cuda/cublaslt.h"
#include "core/cuda/cublaslt_library.h"
#include "core/cuda/cuda.h"
#include "core/random.h"

namespace filigree::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kWorkspaceBytes = kProductWorkspaceBytes;
constexpr std::int64_t kMaxAlignment = 256;  // more makes no difference to cuBLASLt
constexpr int kCandidates = 16;
constexpr double kLeastTimedFlops = 4e9;  // some 6 us on an H100 in bf16
// Choosing may add this to the time of the first step.
constexpr Clock::duration kTimingOfAShape = std::chrono::milliseconds(10),
                          kTimingInAll = std::chrono::milliseconds(500);

void check_cublas(cublasStatus_t status, std::source_location where = std::source_location::current()) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    check(false,
          fmt::format("cuBLASLt: {} ({})", cublas_lt().status_text(status), cublas_lt().status_name(status)),
          where);
}

// cuBLASLt's own type has no name, which nvcc 13.0 cannot put into containers.
struct Algorithm {
  cublasLtMatmulAlgo_t value;
};

// Everything that may decide which algorithms fit, and how fast they are.
using Key = std::array<std::int64_t, 16>;
using Plan = std::optional<Algorithm>;  // none: not supported

struct State {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
  Clock::duration timing_left = kTimingInAll;
  std::mutex mutex;
};

State& state(Context context) {
  static auto* states = new std::map<int, State>;  // never destroyed, like the device's stream
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  State& s = (*states)[context.device];
  if (s.handle) return s;
  if (!s.workspace) s.workspace = backend(context.device).take(kWorkspaceBytes);
  if (!s.workspace) fail(ErrorKind::out_of_memory, "no memory for cuBLASLt's workspace of 64 MiB");
  check_cuda(cudaSetDevice(context.device));
  check_cublas(cublas_lt().create(&s.handle));
  return s;
}

// The greatest power of two that divides the address; 0 for a null pointer.
std::int64_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return std::min(static_cast<std::int64_t>(address & (0 - address)), kMaxAlignment);
}

Key key_of(const Product& p) {
  return {static_cast<std::int64_t>(p.a.type),
          static_cast<std::int64_t>(p.y.type),
          static_cast<std::int64_t>(p.epilogue),
          std::bit_cast<std::int64_t>(p.beta),
          p.a.rows,
          p.a.columns,
          p.b.rows,
          p.b.columns,
          p.transpose_a,
          p.transpose_b,
          p.batch,
          alignment(p.a.data),
          alignment(p.b.data),
          alignment(p.y.data),
          alignment(p.vector),
          alignment(p.before)};
}

// --- descriptions ---

template <class T>
void set(cublasLtMatmulDesc_t of, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_cublas(cublas_lt().set_operation(of, attribute, &value, sizeof(T)));
}
template <class T>
void set(cublasLtMatrixLayout_t of, cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
  check_cublas(cublas_lt().set_layout(of, attribute, &value, sizeof(T)));
}
template <class T>
void set(cublasLtMatmulPreference_t of, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check_cublas(cublas_lt().set_preference(of, attribute, &value, sizeof(T)));
}

cudaDataType_t cuda_type(DType type) {
  check(type == DType::f32 || type == DType::f64 || type == DType::bf16, "a product of integers");
  return type == DType::f32 ? CUDA_R_32F : type == DType::f64 ? CUDA_R_64F : CUDA_R_16BF;
}

cublasLtEpilogue_t cublas_epilogue(const Product& p) {
  switch (p.epilogue) {
    case Epilogue::none:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu:
      return p.vector ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case Epilogue::gelu_gradient:
      return CUBLASLT_EPILOGUE_DGELU;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// A row-major matrix is its transpose in column-major order, so cuBLASLt computes y^T = op(b)^T op(a)^T: its
// A is our b, its B our a.
struct Description {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, y;

  explicit Description(const Product& p) {
    const bool f64 = p.a.type == DType::f64;
    check_cublas(cublas_lt().init_operation(&operation, sizeof(operation),
                                            f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                            f64 ? CUDA_R_64F : CUDA_R_32F));
    set(&operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(&operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(&operation, CUBLASLT_MATMUL_DESC_EPILOGUE, cublas_epilogue(p));
    if (p.vector) set(&operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.vector);
    if (p.before) {
      set(&operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.before);
      set(&operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.y.columns);
    }
    describe(&a, p.a, p.batch);
    describe(&b, p.b, p.batch);
    describe(&y, p.y, p.batch);
  }

 private:
  static void describe(cublasLtMatrixLayout_t layout, const Matrix& m, std::int64_t batch) {
    check_cublas(cublas_lt().init_layout(layout, sizeof(*layout), cuda_type(m.type),
                                         static_cast<std::uint64_t>(m.columns),
                                         static_cast<std::uint64_t>(m.rows), m.columns));
    if (batch == 1) return;
    check(batch <= std::numeric_limits<std::int32_t>::max(), "too many matrices in a batch");
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.rows * m.columns);
  }
};

cublasStatus_t run(const State& s, Context context, const Product& p, const Algorithm& algorithm) {
  Description d(p);
  const bool f64 = p.a.type == DType::f64;
  const double alpha = 1;
  const float narrow_alpha = 1, narrow_beta = static_cast<float>(p.beta);
  const void* const alpha_at = f64 ? static_cast<const void*>(&alpha) : &narrow_alpha;
  const void* const beta_at = f64 ? static_cast<const void*>(&p.beta) : &narrow_beta;
  return cublas_lt().matmul(s.handle, &d.operation, alpha_at, p.b.data, &d.b, p.a.data, &d.a, beta_at,
                            p.y.data, &d.y, p.y.data, &d.y, &algorithm.value, s.workspace, kWorkspaceBytes,
                            stream(context));
}

// --- the choice ---

// cuBLASLt's proposals, by its estimate of their times.
std::vector<Algorithm> proposals(const State& s, const Product& p) {
  cublasLtMatmulPreferenceOpaque_t preference;
  check_cublas(cublas_lt().init_preference(&preference, sizeof(preference)));
  set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
  // Parts of k are summed in the workspace in the accumulator's type and in a fixed order, or not at all.
  set(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  // Neither TF32 nor sums of bf16 or integer products in the place of f32 and f64, whatever the environment
  // says.
  const std::uint64_t forbidden = p.a.type == DType::f32 ? CUBLASLT_NUMERICAL_IMPL_FLAGS_TENSOR_OP_MASK
                                                         : CUBLASLT_NUMERICAL_IMPL_FLAGS_IMMA;
  set(&preference, CUBLASLT_MATMUL_PREF_IMPL_MASK, ~forbidden);
  const auto set_alignment = [&](cublasLtMatmulPreferenceAttributes_t attribute, const Matrix& m) {
    set(&preference, attribute, static_cast<std::uint32_t>(alignment(m.data)));
  };
  set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.b);
  set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.a);
  set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.y);
  set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.y);

  Description d(p);
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
  int count = 0;
  const cublasStatus_t status = cublas_lt().propose(s.handle, &d.operation, &d.b, &d.a, &d.y, &d.y,
                                                    &preference, kCandidates, results.data(), &count);
  // A product that an epilogue does not fit is called either of these.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  check_cublas(status);
  std::vector<Algorithm> found;
  for (const auto& result : std::span(results).first(static_cast<std::size_t>(count)))
    if (result.state == CUBLAS_STATUS_SUCCESS) found.push_back({result.algo});
  return found;
}

// In how many parts k is summed; other parts give other bits.
std::int32_t parts_of_k(const Algorithm& algorithm) {
  std::int32_t parts = 1;
  check_cublas(cublas_lt().algorithm_attribute(&algorithm.value, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                               sizeof(parts), nullptr));
  return parts;
}

constexpr int kThreads = 256;

// Uniform in [-2, 2).
template <class T>
__global__ void __launch_bounds__(kThreads) fill_random_kernel(std::int64_t n, RandomKey key, T* x) {
  const std::int64_t block = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const PhiloxCounter draws = key.block(static_cast<std::uint64_t>(block));
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (4 * block + i < n) x[4 * block + i] = narrow<T>(4 * uniform01(draws[i]) - 2);
}

__global__ void __launch_bounds__(kThreads)
    compare_kernel(std::int64_t n, const uint4* x, const uint4* y, std::uint32_t* differ) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  bool found = false;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
    const uint4 a = x[i], b = y[i];
    found |= a.x != b.x || a.y != b.y || a.z != b.z || a.w != b.w;
  }
  if (found) *differ = 1;
}

std::int64_t padded(std::int64_t bytes) {
  return divide_up(bytes, kMaxAlignment) * kMaxAlignment;
}

// The same product on random operands, in memory that is not the allocator's, whose peak is promised in
// advance.
class Trial {
 public:
  Trial(Context context, const Product& like) : context_(context), product_(like) {
    const std::int64_t rows = like.y.rows, columns = like.y.columns;
    const Matrix vector{nullptr, like.y.type, 1, columns};
    const std::int64_t of_before = like.before ? bytes(like.y) : 0,
                       of_vector = like.vector ? bytes(vector) : 0;
    result_bytes_ = padded(bytes(like.y)) + padded(of_before) + padded(of_vector);
    memory_.reset(static_cast<char*>(
        backend(context.device)
            .take(padded(bytes(like.a)) + padded(bytes(like.b)) + 2 * result_bytes_ + kMaxAlignment)));
    char* next = memory_.get();
    if (!next) return;
    const auto place = [&](void*& data, std::int64_t size) {
      data = next;
      next += padded(size);
    };
    place(product_.a.data, bytes(like.a));
    place(product_.b.data, bytes(like.b));
    place(product_.y.data, bytes(like.y));
    if (like.before) place(product_.before, of_before);
    if (like.vector) place(product_.vector, of_vector);
    place(expected_, result_bytes_);
    differ_ = next;
    fill_random(product_.a, 0);
    fill_random(product_.b, 1);
    if (like.before) fill_random({product_.before, like.y.type, rows, columns}, 3);
    if (like.vector) fill_random({product_.vector, like.y.type, 1, vector.columns}, 4);
  }

  bool has_memory() const { return memory_ != nullptr; }
  const Product& product() const { return product_; }
  void prepare() const {  // for each run whose results count
    if (product_.beta != 0) fill_random(product_.y, 2);
  }
  void keep_results() const {
    backend(context_.device).copy(expected_, product_.y.data, result_bytes_, CopyKind::within);
  }
  bool results_are_those_kept() const {
    backend(context_.device).zero(differ_, sizeof(std::uint32_t));
    compare_kernel<<<8 * multiprocessors(context_), kThreads, 0, stream(context_)>>>(
        result_bytes_ / static_cast<std::int64_t>(sizeof(uint4)), static_cast<const uint4*>(product_.y.data),
        static_cast<const uint4*>(expected_), static_cast<std::uint32_t*>(differ_));
    check_launch();
    std::uint32_t differ = 0;
    backend(context_.device).copy(&differ, differ_, sizeof(differ), CopyKind::to_host);
    backend(context_.device).synchronize();
    return differ == 0;
  }

 private:
  struct Free {
    void operator()(char* pointer) const { cudaFree(pointer); }
  };

  std::int64_t bytes(const Matrix& m) const {
    return product_.batch * m.rows * m.columns * dtype_size(m.type);
  }
  void fill_random(const Matrix& m, std::uint32_t site) const {
    const std::int64_t n = product_.batch * m.rows * m.columns;
    with_stored(m.type, [&]<class T>(T) {
      fill_random_kernel<<<static_cast<unsigned>(divide_up(n, 4 * kThreads)), kThreads, 0,
                           stream(context_)>>>(n, RandomKey{0, site, 0}, static_cast<T*>(m.data));
      check_launch();
    });
  }

  Context context_;
  Product product_;
  std::unique_ptr<char, Free> memory_;
  std::int64_t result_bytes_ = 0;  // of y, before and vector, which lie together
  void *expected_ = nullptr, *differ_ = nullptr;
};

class Stopwatch {
 public:
  explicit Stopwatch(Context context) : stream_(stream(context)) {
    check_cuda(cudaEventCreate(&begin_));
    check_cuda(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <class F>
  float milliseconds(F&& f) {  // of what f enqueues; waits for it
    float time = 0;
    check_cuda(cudaEventRecord(begin_, stream_));
    f();
    check_cuda(cudaEventRecord(end_, stream_));
    check_cuda(cudaEventSynchronize(end_));
    check_cuda(cudaEventElapsedTime(&time, begin_, end_));
    return time;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// The fastest of those that give the first one's bits, as far as there is time to try them.
Algorithm fastest(const State& s, Context context, const Product& p, const std::vector<Algorithm>& proposed,
                  Clock::time_point deadline) {
  constexpr int kTimedRuns = 2;
  const Trial trial(context, p);
  if (!trial.has_memory()) return proposed[0];
  Stopwatch stopwatch(context);
  Algorithm best = proposed[0];
  float least = std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < proposed.size() && (i == 0 || Clock::now() < deadline); ++i) {
    if (parts_of_k(proposed[i]) != parts_of_k(proposed[0])) continue;
    trial.prepare();
    if (run(s, context, trial.product(), proposed[i]) != CUBLAS_STATUS_SUCCESS) {
      cudaGetLastError();  // not an error of the next launch
      if (i == 0) return best;
      continue;
    }
    if (i == 0) trial.keep_results();
    if (i > 0 && !trial.results_are_those_kept()) continue;
    const float time = stopwatch.milliseconds([&] {
      for (int r = 0; r < kTimedRuns; ++r) check_cublas(run(s, context, trial.product(), proposed[i]));
    });
    if (time < least) {
      least = time;
      best = proposed[i];
    }
  }
  return best;
}

Plan make_plan(State& s, Context context, const Product& p) {
  const std::vector<Algorithm> proposed = proposals(s, p);
  if (proposed.empty()) return std::nullopt;
  const std::int64_t k = p.transpose_a ? p.a.rows : p.a.columns;
  const double flops = 2.0 * static_cast<double>(p.batch * k) * static_cast<double>(p.y.rows * p.y.columns);
  if (proposed.size() == 1 || flops < kLeastTimedFlops || s.timing_left <= Clock::duration::zero() ||
      capturing(context))
    return proposed[0];
  backend(context.device).synchronize();
  const Clock::time_point begin = Clock::now();
  const Algorithm best = fastest(s, context, p, proposed, begin + std::min(s.timing_left, kTimingOfAShape));
  s.timing_left -= Clock::now() - begin;
  return best;
}

}  // namespace

bool multiply(Context context, const Product& p) {
  State& s = state(context);
  const std::lock_guard lock(s.mutex);
  const Key key = key_of(p);
  auto found = s.plans.find(key);
  if (found == s.plans.end()) found = s.plans.emplace(key, make_plan(s, context, p)).first;
  const Plan& plan = found->second;
  if (!plan)
    check(p.epilogue != Epilogue::none,
          fmt::format("cuBLASLt has no algorithm for {} x [{}, {}]{} [{}, {}]{} in {}", p.batch, p.a.rows,
                      p.a.columns, p.transpose_a ? " transposed" : "", p.b.rows, p.b.columns,
                      p.transpose_b ? " transposed" : "", dtype_name(p.a.type)));
  else
    check_cublas(run(s, context, p, *plan));
  return plan.has_value();
}

}  // namespace filigree::cuda
