// Results too large to stay in a cache are written past it: a store that misses would first read what it overwrites.
#pragma once

#include "cpu/kernels/convert.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastconv::cpu::FASTCONV_ISA {

// A whole or half a vector to an address that is a multiple of its bytes.
template <class Vector>
inline __attribute__((always_inline)) void stream_vector(void* to, Vector value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Vector) == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)value);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(Vector) == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)value);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(Vector) == 16) return _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)value);
#endif
  *static_cast<Vector*>(to) = value;
}

// lanes<A> elements, which if streamed lie at a multiple of their bytes.
template <class T, class A>
inline __attribute__((always_inline)) void put(T* to, vec<A> value, bool stream) {
  if (!stream) return store_as<T, A>(to, value);
  if constexpr (std::is_same_v<T, A>) {
    stream_vector(to, value);
  } else {
    stream_vector(to, halves<T, A>(value));
  }
}

// Other threads may read what was streamed only after this.
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// to[i] = from[i], narrowed; streamed but for what does not fill a cache line.
template <class T, class A>
void put_line(T* to, const A* from, int64_t count, bool stream) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  int64_t i = (-reinterpret_cast<intptr_t>(to) & 63) / int64_t(sizeof(T));
  if (!stream || count < i + line) return convert_line(to, from, count);
  if (i) convert_line(to, from, i);
  for (; i + line <= count; i += line)
#pragma GCC unroll 8
    for (int64_t j = 0; j < line; j += lanes<A>) put<T, A>(to + i + j, load(from + i + j), true);
  if (i < count) convert_line(to + i, from + i, count - i);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
