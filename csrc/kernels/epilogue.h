// The epilogue of fprop: y = act(sum + bias + residual) in the accumulators' type, narrowed once, at the store.
// The activation is a branch that all threads take alike, not a template parameter: kernels keep their number, and the
// loops around `finish` are not unrolled, so that its code is there once.
#pragma once

#include "device/device.h"
#include "kernels/direct_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

template <class T>
struct Epilogue {
  using A = accumulator_t<T>;

  const T *bias = nullptr, *residual = nullptr;  // null: none
  Activation activation = Activation::none;
  A slope = 0;

  Epilogue() = default;

  // `first_channel`: the output channel that bias[0] shall be of.
  FC_DEVICE Epilogue(const GatherParams& p, int first_channel)
      : bias(p.bias ? static_cast<const T*>(p.bias) + first_channel : nullptr),
        residual(static_cast<const T*>(p.residual)),
        activation(p.activation),
        slope(A(p.slope)) {}

  // Neighbouring elements of the output, at `place` in it; the first is of channel `channel`, the next `step` further.
  // The residual is read as the output is written, in the same vectors.
  template <int N>
  FC_DEVICE Vec<T, N> finish(Vec<A, N> values, bool on, int channel, int step, int64_t place) const {
    const auto added = load_if(on && residual, as<Vec<T, N>>(residual + place));
    if (bias) {
      FC_UNROLL
      for (int e = 0; e < N; ++e) values[e] += A(widen(load_if(on, bias + channel + e * step)));
    }
    return finish(values, added);
  }

  // The same with the bias in `values` and the residual read (zeros: none).
  template <int N>
  FC_DEVICE Vec<T, N> finish(Vec<A, N> values, const Vec<T, N>& added) const {
    if (residual) {
      FC_UNROLL
      for (int e = 0; e < N; ++e) values[e] += A(widen(added[e]));
    }
    activate(values.v, N, activation, slope);
    return narrowed(values);
  }

  template <int N>
  FC_DEVICE static Vec<T, N> narrowed(const Vec<A, N>& values) {
    Vec<T, N> result;
    FC_UNROLL
    for (int e = 0; e < N; ++e) result[e] = narrow<T>(values[e]);
    return result;
  }
};

}  // namespace fastconv::kernels
