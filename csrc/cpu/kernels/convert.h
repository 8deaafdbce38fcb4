// Vectors between a tensor's element type and the type that is computed in.
#pragma once

#include "cpu/kernels/vector.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastconv::cpu::FASTCONV_ISA {

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t HalvesInMemory __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

// gcc 12 makes four instructions of the conversion, one would do.
inline __attribute__((always_inline)) Words load_halves(const void* from) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(static_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#else
  return __builtin_convertvector(*static_cast<const HalvesInMemory*>(from), Words);
#endif
}

// lanes<A> elements of T.
template <class A, class T>
inline __attribute__((always_inline)) vec<A> load_as(const T* from) {
  if constexpr (std::is_same_v<A, T>) {
    return load(from);
  } else if constexpr (std::is_same_v<T, bf16>) {
    return (vec<A>)(load_halves(from) << 16);
  } else {
#if defined(__AVX512F__)
    return (vec<A>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
    return (vec<A>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    vec<A> value;
    for (int i = 0; i < lanes<A>; ++i) value[i] = widen(from[i]);
    return value;
#endif
  }
}

// Rounded to a 16-bit type.
template <class T, class A>
inline __attribute__((always_inline)) Halves halves(vec<A> value) {
  if constexpr (std::is_same_v<T, bf16>) {
    const Words bits = (Words)value, high = bits >> 16;
    const Words rounded = (bits + 0x7fff + (high & 1)) >> 16;
    const Words nan = (Words)((bits & 0x7fffffff) > 0x7f800000);  // all ones or zeros
    return __builtin_convertvector((nan & (high | 0x7fc0)) | (~nan & rounded), Halves);
  } else {
#if defined(__AVX512F__)
    return (Halves)_mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (Halves)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
    T narrowed[lanes<A>];
    for (int i = 0; i < lanes<A>; ++i) narrowed[i] = narrow<T>(A(value[i]));
    Halves result;
    __builtin_memcpy(&result, narrowed, sizeof(result));
    return result;
#endif
  }
}

template <class T, class A>
inline __attribute__((always_inline)) void store_as(T* to, vec<A> value) {
  if constexpr (std::is_same_v<A, T>) {
    store(to, value);
  } else {
    *reinterpret_cast<HalvesInMemory*>(to) = halves<T, A>(value);
  }
}

// All ones in the first `count` lanes.
template <class A>
inline __attribute__((always_inline)) mask_of<A> first_lanes(int64_t count) {
  mask_of<A> index;
#pragma GCC unroll 16
  for (int i = 0; i < lanes<A>; ++i) index[i] = i;
  return index < mask_of<A>{} + integer_of<A>(least(count, lanes<A>));
}

// to[i] = from[i]; one of the two types is accumulator_t of the other. Writes nothing past `count`.
template <class To, class From>
void convert_line(To* to, const From* from, int64_t count) {
  using A = std::conditional_t<sizeof(To) >= sizeof(From), To, From>;
  constexpr int64_t by = lanes<A>;
  if (count < by) {
    for (int64_t i = 0; i < count; ++i) to[i] = narrow<To>(widen(from[i]));
    return;
  }
  int64_t i = 0;
  for (; i + by <= count; i += by) store_as<To, A>(to + i, load_as<A>(from + i));
  if (i < count) store_as<To, A>(to + count - by, load_as<A>(from + count - by));  // overlaps the one before
}

}  // namespace fastconv::cpu::FASTCONV_ISA
