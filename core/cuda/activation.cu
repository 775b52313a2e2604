// Elementwise functions of one tensor, their derivatives, and swiglu.
#include "core/cuda/elementwise.cuh"
#include "core/cuda/math.cuh"

namespace filigree::cuda {
namespace {

struct Exp {
  template <class T>
  __device__ T operator()(T x) const {
    return std::exp(x);
  }
};
struct Log {
  template <class T>
  __device__ T operator()(T x) const {
    return std::log(x);
  }
};
struct Sigmoid {
  template <class T>
  __device__ T operator()(T x) const {
    return sigmoid(x);
  }
};
struct SigmoidGradient {
  template <class T>
  __device__ T operator()(T dy, T y) const {
    return dy * y * (T(1) - y);
  }
};
struct Tanh {
  template <class T>
  __device__ T operator()(T x) const {
    return std::tanh(x);
  }
};
struct TanhGradient {
  template <class T>
  __device__ T operator()(T dy, T y) const {
    return dy * (T(1) - y * y);
  }
};
struct Relu {
  template <class T>
  __device__ T operator()(T x) const {
    return x < T(0) ? T(0) : x;  // NaN stays NaN
  }
};
struct ReluGradient {
  template <class T>
  __device__ T operator()(T dy, T y) const {
    return y > T(0) ? dy : T(0);
  }
};
struct Clamp {
  double low, high;
  template <class T>
  __device__ T operator()(T x) const {
    const T l = static_cast<T>(low), h = static_cast<T>(high);
    return x < l ? l : x > h ? h : x;  // NaN stays NaN
  }
};
struct ClampGradient {
  double low, high;
  template <class T>
  __device__ T operator()(T dy, T x) const {
    return x < static_cast<T>(low) || x > static_cast<T>(high) ? T(0) : dy;
  }
};
struct Silu {
  template <class T>
  __device__ T operator()(T x) const {
    return x * sigmoid(x);
  }
};
struct SiluGradient {
  template <class T>
  __device__ T operator()(T dy, T x) const {
    const T s = sigmoid(x);
    return dy * s * (T(1) + x * (T(1) - s));
  }
};
struct Swiglu {
  template <class T>
  __device__ T operator()(T gate, T up) const {
    return gate * sigmoid(gate) * up;
  }
};
struct SwigluGateGradient {
  template <class T>
  __device__ T operator()(T dy, T gate, T up) const {
    return SiluGradient{}(dy * up, gate);
  }
};
struct SwigluUpGradient {
  template <class T>
  __device__ T operator()(T dy, T gate) const {
    return dy * gate * sigmoid(gate);
  }
};

template <class T>
__global__ void __launch_bounds__(kMapThreads)
    swiglu_backward_kernel(std::int64_t n, bool wide, const T* dy, const T* gate, const T* up, T* dgate,
                           T* dup) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t at = (std::int64_t{blockIdx.x} * kMapThreads + threadIdx.x) * kSize;
  const Pack<T> d = load_pack(dy + at, n - at, wide), g = load_pack(gate + at, n - at, wide),
                u = load_pack(up + at, n - at, wide);
  Pack<T> out_gate, out_up;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const compute_t<T> s = sigmoid(g[i]);
    out_gate.set(i, d[i] * u[i] * s * (1 + g[i] * (1 - s)));
    out_up.set(i, d[i] * g[i] * s);
  }
  store_pack(dgate + at, out_gate, n - at, wide);
  store_pack(dup + at, out_up, n - at, wide);
}

}  // namespace

void exp_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Exp{}, x);
}

void log_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Log{}, x);
}

void sigmoid_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Sigmoid{}, x);
}

void sigmoid_backward(Context context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map_tensors(context, dx, SigmoidGradient{}, dy, y);
}

void tanh_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Tanh{}, x);
}

void tanh_backward(Context context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map_tensors(context, dx, TanhGradient{}, dy, y);
}

void relu_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Relu{}, x);
}

void relu_backward(Context context, const Tensor& dy, const Tensor& y, Tensor& dx) {
  map_tensors(context, dx, ReluGradient{}, dy, y);
}

void clamp_forward(Context context, const Tensor& x, double low, double high, Tensor& y) {
  map_tensors(context, y, Clamp{low, high}, x);
}

void clamp_backward(Context context, const Tensor& dy, const Tensor& x, double low, double high, Tensor& dx) {
  map_tensors(context, dx, ClampGradient{low, high}, dy, x);
}

void gelu_forward(Context context, const Tensor& x, ops::Gelu kind, Tensor& y) {
  if (kind == ops::Gelu::erf)
    map_tensors(context, y, Gelu<ops::Gelu::erf>{}, x);
  else
    map_tensors(context, y, Gelu<ops::Gelu::tanh>{}, x);
}

void gelu_backward(Context context, const Tensor& dy, const Tensor& x, ops::Gelu kind, Tensor& dx) {
  if (kind == ops::Gelu::erf)
    map_tensors(context, dx, GeluGradient<ops::Gelu::erf>{}, dy, x);
  else
    map_tensors(context, dx, GeluGradient<ops::Gelu::tanh>{}, dy, x);
}

void silu_forward(Context context, const Tensor& x, Tensor& y) {
  map_tensors(context, y, Silu{}, x);
}

void silu_backward(Context context, const Tensor& dy, const Tensor& x, Tensor& dx) {
  map_tensors(context, dx, SiluGradient{}, dy, x);
}

void swiglu_forward(Context context, const Tensor& gate, const Tensor& up, Tensor& y) {
  map_tensors(context, y, Swiglu{}, gate, up);
}

void swiglu_backward(Context context, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup) {
  if (!dgate.defined()) return map_tensors(context, dup, SwigluUpGradient{}, dy, gate);
  if (!dup.defined()) return map_tensors(context, dgate, SwigluGateGradient{}, dy, gate, up);
  const std::int64_t n = gate.numel();
  if (n == 0) return;
  with_stored(gate.dtype(), [&]<class T>(T) {
    const T *d = data<T>(dy), *g = data<T>(gate), *u = data<T>(up);
    T *dg = data<T>(dgate), *du = data<T>(dup);
    const std::int64_t block = kMapThreads * kPackSize<T>;
    swiglu_backward_kernel<<<static_cast<unsigned>(divide_up(n, block)), kMapThreads, 0, stream(context)>>>(
        n, wide(d, g, u, dg, du), d, g, u, dg, du);
    check_launch();
  });
}

}  // namespace filigree::cuda
