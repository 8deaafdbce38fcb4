// The activations of fprop's epilogue, y = act(conv + bias + residual): the one definition that the GPU kernels, the
// emulator and the CPU backend compute, in the accumulators' type. Formulas are torch.nn.functional's; a NaN stays one.
#pragma once

#include <cmath>

#include "fastconv/dtype.h"

namespace fastconv {

// `leaky_relu` has a slope; `gelu` is the exact form, by erf.
enum class Activation : uint8_t { none, relu, relu6, leaky_relu, hardswish, silu, gelu, gelu_tanh };

// Made of comparisons, products and sums only: cheap beside a load, and vectorised by any compiler.
constexpr bool is_piecewise(Activation activation) { return activation < Activation::silu; }

namespace activations {

struct Relu {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    return v < A(0) ? A(0) : v;
  }
};
struct Relu6 {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    return v < A(0) ? A(0) : v > A(6) ? A(6) : v;
  }
};
template <class A>
struct LeakyRelu {
  A slope;
  FC_HOST_DEVICE A operator()(A v) const { return v > A(0) ? v : v * slope; }
};
struct Hardswish {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    return v * Relu6{}(v + A(3)) / A(6);
  }
};
struct Silu {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    using std::exp;
    return v / (A(1) + exp(-v));
  }
};
struct Gelu {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    using std::erf;
    return A(0.5) * v * (A(1) + erf(v * A(0.70710678118654752440)));
  }
};
struct GeluTanh {
  template <class A>
  FC_HOST_DEVICE A operator()(A v) const {
    using std::tanh;
    return A(0.5) * v * (A(1) + tanh(A(0.79788456080286535588) * (v + A(0.044715) * v * v * v)));
  }
};

template <class A, class Each>
FC_HOST_DEVICE void replace(A* values, int64_t count, Each each) {
  for (int64_t i = 0; i < count; ++i) values[i] = each(values[i]);
}

}  // namespace activations

// values[i] = act(values[i]) for a piecewise activation; the branch on it is outside the loop.
template <class A>
FC_HOST_DEVICE void activate_piecewise(A* values, int64_t count, Activation activation, A slope) {
  using namespace activations;
  switch (activation) {
    case Activation::relu: return replace(values, count, Relu{});
    case Activation::relu6: return replace(values, count, Relu6{});
    case Activation::leaky_relu: return replace(values, count, LeakyRelu<A>{slope});
    case Activation::hardswish: return replace(values, count, Hardswish{});
    default: return;
  }
}

// The same for any activation.
template <class A>
FC_HOST_DEVICE void activate(A* values, int64_t count, Activation activation, A slope) {
  using namespace activations;
  switch (activation) {
    case Activation::silu: return replace(values, count, Silu{});
    case Activation::gelu: return replace(values, count, Gelu{});
    case Activation::gelu_tanh: return replace(values, count, GeluTanh{});
    default: return activate_piecewise(values, count, activation, slope);
  }
}

}  // namespace fastconv
