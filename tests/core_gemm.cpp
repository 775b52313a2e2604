#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "core/cpu/gemm.h"
#include "core/parallel.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

using std::int64_t;

// One product with padded leading dimensions, and the triple loop in f64 beside it.
struct Product {
  bool ta, tb;
  int64_t m, n, k, lda, ldb, ldc;
  double alpha, beta;

  static Product random(Random& r, int64_t largest) {
    Product p{r.coin(), r.coin(), r.size(0, largest), r.size(0, largest), r.size(0, largest), 0, 0, 0, 1, 0};
    p.lda = std::max<int64_t>(1, (p.ta ? p.m : p.k) + r.range(0, 3));
    p.ldb = std::max<int64_t>(1, (p.tb ? p.k : p.n) + r.range(0, 3));
    p.ldc = std::max<int64_t>(1, p.n + r.range(0, 3));
    if (r.coin()) p.alpha = 0.75;
    if (r.coin()) p.beta = r.coin() ? 1 : -0.5;
    return p;
  }
  std::string str() const {
    return fmt::format("{}{} {}x{}x{} ld {} {} {} alpha {} beta {}", ta, tb, m, n, k, lda, ldb, ldc, alpha,
                       beta);
  }
  Tensor a(Random& r, DType t) const { return r.normal({ta ? k : m, lda}, t); }
  Tensor b(Random& r, DType t) const { return r.normal({tb ? n : k, ldb}, t); }

  template <class T>
  void expect(const Tensor& a, const Tensor& b, const Tensor& before, const Tensor& after,
              double tolerance) const {
    const T *pa = a.data<T>(), *pb = b.data<T>(), *pc = before.data<T>(), *out = after.data<T>();
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < ldc; ++j) {
        double sum = 0, size = 1;
        for (int64_t p = 0; j < n && p < k; ++p) {
          const double term = double(pa[ta ? p * lda + i : i * lda + p]) * pb[tb ? j * ldb + p : p * ldb + j];
          sum += term;
          size += std::abs(term);
        }
        const double want = j < n ? alpha * sum + (beta == 0 ? 0 : beta * pc[i * ldc + j]) : pc[i * ldc + j];
        ASSERT_NEAR(out[i * ldc + j], want, tolerance * size) << str() << " at " << i << ", " << j;
      }
  }
};

template <class T>
void check_products(Random& random, int count, int64_t largest, double tolerance) {
  for (int round = 0; round < count; ++round) {
    const Product p = Product::random(random, largest);
    const Tensor a = p.a(random, dtype_of<T>()), b = p.b(random, dtype_of<T>());
    Tensor before = random.normal({p.m, p.ldc}, dtype_of<T>());
    if (p.beta == 0 && p.n > 0)  // C must not be read then
      for (int64_t i = 0; i < p.m; ++i) before.data<T>()[i * p.ldc] = std::nan("");
    for (const bool serial : {true, false}) {
      Tensor c = before.clone();
      (serial ? cpu::gemm_serial<T> : cpu::gemm<T>)(p.ta, p.tb, p.m, p.n, p.k, T(p.alpha), a.data<T>(), p.lda,
                                                    b.data<T>(), p.ldb, T(p.beta), c.data<T>(), p.ldc);
      p.expect<T>(a, b, before, c, tolerance);
    }
  }
}

TEST(Gemm, EqualsTheTripleLoop) {
  Random random(test_seed(), 11);
  check_products<double>(random, 60, 40, 1e-14);
  check_products<double>(random, 8, 150, 1e-14);
  check_products<float>(random, 60, 40, 1e-6);
  check_products<float>(random, 8, 150, 1e-6);
}

// Shapes that are cut into blocks and, in the last two, into slices of k.
TEST(Gemm, SameBitsForAnyNumberOfThreads) {
  Random random(test_seed(), 12);
  const int before = n_threads();
  for (const auto [m, n, k] :
       {std::array<int64_t, 3>{1025, 771, 33}, {97, 1601, 64}, {63, 129, 4099}, {1, 1, 9000}}) {
    const Tensor a = random.normal({k, m}, DType::f32), b = random.normal({n, k}, DType::f32);
    const Tensor c = random.normal({m, n}, DType::f32), bias = random.normal({n}, DType::f32);
    std::vector<Tensor> results, with_bias;
    for (const int threads : {1, 2, 3}) {
      set_n_threads(threads);
      results.push_back(c.clone());
      cpu::gemm<float>(true, true, m, n, k, 1, a.data<float>(), m, b.data<float>(), k, 1,
                       results.back().data<float>(), n);
      with_bias.push_back(Tensor::full({m, n}, std::nan("")));
      cpu::gemm_bias<float>(true, true, m, n, k, a.data<float>(), m, b.data<float>(), k, bias.data<float>(),
                            with_bias.back().data<float>(), n);
    }
    set_n_threads(before);
    for (const auto* all : {&results, &with_bias})
      for (const auto& other : *all)
        EXPECT_TRUE(std::ranges::equal(other.values<float>(), (*all)[0].values<float>()))
            << m << " " << n << " " << k;
    const Product p{true, true, m, n, k, m, k, n, 1, 1};
    p.expect<float>(a, b, c, results[0], 1e-6);
    Tensor rows = Tensor::empty({m, n});
    for (int64_t i = 0; i < m; ++i) rows.slice(i, i + 1).copy_from(bias.reshape({1, n}));
    p.expect<float>(a, b, rows, with_bias[0], 1e-6);
  }
}

#if defined(__x86_64__)

std::uintptr_t stack_begin, stack_end;             // of the thread that computes
volatile sig_atomic_t n_signals, n_off_the_stack;  // signal handlers can reach nothing but globals

void look_at_stack_pointer(int, siginfo_t*, void* context) {
  const auto sp = static_cast<std::uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RSP]);
  n_signals = n_signals + 1;
  if (sp < stack_begin || sp >= stack_end) n_off_the_stack = n_off_the_stack + 1;
}

// A handler's frame goes below the stack pointer, so that may never point into the heap. Here the handler has
// a stack of its own and only looks.
TEST(Gemm, SignalHandlersFindTheStackPointerOnTheStack) {
  pthread_attr_t attributes;
  void* lowest;
  std::size_t size;
  ASSERT_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
  pthread_attr_getstack(&attributes, &lowest, &size);
  pthread_attr_destroy(&attributes);
  stack_begin = reinterpret_cast<std::uintptr_t>(lowest);
  stack_end = stack_begin + size;
  n_signals = 0;
  n_off_the_stack = 0;

  std::vector<char> memory(1 << 17);
  stack_t own{}, stack_before{};
  own.ss_sp = memory.data();
  own.ss_size = memory.size();
  ASSERT_EQ(sigaltstack(&own, &stack_before), 0);
  struct sigaction look {};
  struct sigaction before {};
  look.sa_sigaction = look_at_stack_pointer;
  look.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigaction(SIGUSR1, &look, &before);
  std::atomic<bool> enough{false};
  std::thread sender([&, computing = pthread_self()] {
    while (!enough) {
      pthread_kill(computing, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });

  constexpr int64_t kM = 96, kN = 80, kK = 256;
  const Tensor a = Tensor::full({kM * kK}, 1), b = Tensor::full({kK * kN}, 1);
  Tensor c = Tensor::zeros({kM, kN});
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const int until = n_signals + 50; n_signals < until;)
        cpu::gemm_serial<float>(ta, tb, kM, kN, kK, 1, a.data<float>(), ta ? kM : kK, b.data<float>(),
                                tb ? kK : kN, 0, c.data<float>(), kN);
  enough = true;
  sender.join();
  sigaction(SIGUSR1, &before, nullptr);
  sigaltstack(&stack_before, nullptr);
  EXPECT_EQ(n_off_the_stack, 0) << "of " << n_signals;
}

#endif

}  // namespace
}  // namespace filigree
