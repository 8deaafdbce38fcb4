// Arithmetic that must mean the same on both sides.
//   fma(a, b, c)   one rounding (plain a * b + c is fused by nvcc, not by g++)
//   min, max       of two values of one type; a NaN in `a` is kept, in `b` it is not: see pooling for torch's NaN rules
//   ceil_div       of non-negative integers
#pragma once

#include <cmath>

#include "device/types.h"

namespace fastconv::device {

FC_HOST_DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
FC_HOST_DEVICE double fma(double a, double b, double c) { return ::fma(a, b, c); }

template <class T>
FC_HOST_DEVICE constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
FC_HOST_DEVICE constexpr T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
FC_HOST_DEVICE constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

FC_HOST_DEVICE float rsqrt(float x) {
#if defined(__CUDA_ARCH__)
  return ::rsqrtf(x);
#else
  return 1.0f / std::sqrt(x);
#endif
}

}  // namespace fastconv::device
