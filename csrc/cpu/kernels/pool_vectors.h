// What the two vector pooling kernels share: vectors of winning taps, and the rows of taps of an output row.
#pragma once

#include "cpu/kernels/convert.h"
#include "cpu/windows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A>
using Integer = integer_of<A>;

template <int N>
struct Count {
  static constexpr int value = N;
};

// Winning taps as integers as wide as the values beside them; in memory they are uint8_t or int32_t.
template <class A, class Tap>
inline __attribute__((always_inline)) vec<Integer<A>> load_taps(const Tap* from) {
  if constexpr (sizeof(Tap) == sizeof(A)) {
    return load(from);
#if defined(__AVX512F__)
  } else if constexpr (sizeof(Tap) == 1 && sizeof(A) == 4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (vec<Integer<A>>)_mm512_maskz_cvtepu8_epi32(0xffff, bytes);
#elif defined(__AVX2__)
  } else if constexpr (sizeof(Tap) == 1 && sizeof(A) == 4) {
    return (vec<Integer<A>>)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
  } else {
    vec<Integer<A>> taps;
    for (int i = 0; i < lanes<A>; ++i) taps[i] = Integer<A>(from[i]);
    return taps;
  }
}

template <class A, class Tap>
inline __attribute__((always_inline)) void store_taps(Tap* to, vec<Integer<A>> taps) {
  if constexpr (sizeof(Tap) == sizeof(A)) {
    store(to, taps);
#if defined(__AVX512F__)
  } else if constexpr (sizeof(Tap) == 1 && sizeof(A) == 4) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)taps));
#elif defined(__AVX2__)
  } else if constexpr (sizeof(Tap) == 1 && sizeof(A) == 4) {
    const __m256i low = _mm256_and_si256((__m256i)taps, _mm256_set1_epi32(255));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
#endif
  } else {
    for (int i = 0; i < lanes<A>; ++i) to[i] = Tap(taps[i]);
  }
}

// torch's rule, walking the taps in row-major order: the first maximum wins, the last NaN does.
template <bool Track, class A>
inline __attribute__((always_inline)) void take_larger(vec<A>& best, vec<Integer<A>>& winner, vec<A> value,
                                                       vec<Integer<A>> tap) {
  // Two selections each, which gcc makes one of; (value > best) | (value != value) costs it an inversion more.
  if constexpr (Track) winner = value > best ? tap : winner, winner = value != value ? tap : winner;
  const vec<A> larger = value > best ? value : best;
  best = value != value ? value : larger;
}

// The taps of an output in one source row: their elements start at `at` for column 0, their numbers at `tap`;
// `covered` is that of the (slice, row) of windows that dgrad of average reads.
struct TapRow {
  int64_t at, tap, covered;
};

// All rows of taps of output row (d, h), in order. The slice that is the k-th of those that the output slice reads lies
// at slices(k, slice), and its row r `row_pitch` elements further than row r - 1.
template <class Slices>
int64_t tap_rows(const WindowPooling& q, int64_t d, int64_t h, int64_t row_pitch, TapRow* rows, Slices slices) {
  const AxisMap(&window)[3] = q.problem.forward;
  const Span &depth = q.axis[0].spans[d], &height = q.axis[1].spans[h];
  int64_t count = 0;
  for (int64_t i = 0; i < depth.count; ++i) {
    const int64_t slice = depth.source + i * q.axis[0].source_step, t = depth.tap + i * q.axis[0].tap_step;
    const int64_t base = slices(i, slice);
    for (int64_t j = 0; j < height.count; ++j) {
      const int64_t row = height.source + j * q.axis[1].source_step, r = height.tap + j * q.axis[1].tap_step;
      const int64_t covered = q.problem.backward ? q.axis[0].covered[slice] * int64_t(q.axis[1].covered[row]) : 0;
      rows[count++] = {base + row * row_pitch, (t * window[1].taps + r) * window[2].taps, covered};
    }
  }
  return count;
}

// torch's index of a winner: the place in its plane of tap `tap` of the window at (d, h, w).
inline int64_t plane_index(const WindowPooling& q, int64_t d, int64_t h, int64_t w, int64_t tap) {
  const AxisMap(&axis)[3] = q.problem.forward;
  if (tap < 0) return -1;
  return (axis[0].origin(d) * axis[1].in + axis[1].origin(h)) * axis[2].in + axis[2].origin(w) + q.places[tap];
}

// Elements of an average's window are counted along each axis; the product is exact.
template <class A>
A share_of(const Pooling& p, int64_t covered) {
  return A(p.divisor_override ? p.divisor_override : covered);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
