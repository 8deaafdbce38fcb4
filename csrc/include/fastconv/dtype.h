// Element types: the four dtypes, the two 16-bit storage types with their conversions, and the one dtype dispatch.
// The 16-bit types are our own so that the kernels, the emulator and the CPU backend share them, and so that nothing
// but nvcc itself ever needs a CUDA header.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "fastconv/status.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FC_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Never a function of its own: the CPU backend compiles these for several instruction sets (cpu/kernels/isa.h).
#define FC_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace fastconv {

enum class DType : uint8_t { f64, f32, f16, bf16 };

// What float32 products are made of, at least: float32 itself, operands rounded to tf32 (10 bits), or three products of
// tf32 parts, which together are as good as float32's. Other dtypes have one way only.
enum class Math : uint8_t { ieee, tf32, tf32x3 };

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

namespace detail {

FC_HOST_DEVICE uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FC_HOST_DEVICE float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// IEEE binary16 <-> binary32 in integer and float arithmetic without branches on the value's class, so that the CPU
// backend's loops over it vectorise. Round to nearest even, subnormals kept, NaN stays NaN.
FC_HOST_DEVICE float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = uint32_t(half & 0x7fff) << 13;
  // Multiplying by 2^112 re-biases the exponent and normalises subnormals in one step.
  const float scaled = bits_float(magnitude) * bits_float(0x77800000u);
  const uint32_t inf_nan = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bits_float(float_bits(scaled) | inf_nan | sign);
}

FC_HOST_DEVICE uint16_t float_to_half(float value) {
  const uint32_t bits = float_bits(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 puts the subnormal's last place at the float's last place: the addition itself rounds.
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return uint16_t(half | sign);
}

FC_HOST_DEVICE uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000u ? 0x7fc0u | (bits >> 16) : rounded);
}

}  // namespace detail

// What a dtype accumulates in: float32 for the 16-bit types, itself otherwise.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

// Conversions between a storage type and its accumulator.
FC_HOST_DEVICE double widen(double value) { return value; }
FC_HOST_DEVICE float widen(float value) { return value; }
FC_HOST_DEVICE float widen(f16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return detail::half_to_float(value.bits);
#endif
}
FC_HOST_DEVICE float widen(bf16 value) { return detail::bits_float(uint32_t(value.bits) << 16); }

template <class T, class A>
FC_HOST_DEVICE T narrow(A value) {
  if constexpr (std::is_same_v<T, f16>) {
#if defined(__CUDA_ARCH__)
    return f16{__half_as_ushort(__float2half_rn(value))};
#else
    return f16{detail::float_to_half(value)};
#endif
  } else if constexpr (std::is_same_v<T, bf16>) {
#if defined(__CUDA_ARCH__)
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    return bf16{detail::float_to_bfloat(value)};
#endif
  } else {
    return T(value);
  }
}

inline int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return 8;
    case DType::f32: return 4;
    default: return 2;
  }
}

inline const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float64", "float32", "float16", "bfloat16"};
  return names[int(dtype)];
}

inline DType parse_dtype(const std::string& name) {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    if (name == name_of(dtype)) return dtype;
  throw InvalidArgument(concat("dtype: expected one of float64, float32, float16, bfloat16, got '", name, "'"));
}

// The one dtype dispatch: calls visit(T{}) with the storage type.
template <class Visit>
decltype(auto) visit_dtype(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::f64: return visit(double{});
    case DType::f32: return visit(float{});
    case DType::f16: return visit(f16{});
    default: return visit(bf16{});
  }
}

}  // namespace fastconv
