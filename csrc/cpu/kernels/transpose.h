// Transposes in registers, for what lies lane by lane on one side (filters, planes) and element by element on the
// other.
#pragma once

#include "cpu/kernels/convert.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Stage `Step` of a transpose: lanes whose index has that bit change places with rows that have it.
template <int Step, class A>
inline __attribute__((always_inline)) void exchange(vec<A> (&row)[lanes<A>]) {
  constexpr int N = lanes<A>;
  mask_of<A> low, high;
#pragma GCC unroll 16
  for (int l = 0; l < N; ++l) low[l] = l & Step ? N + (l ^ Step) : l, high[l] = l & Step ? N + l : l ^ Step;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
    if (!(i & Step)) {
      const vec<A> a = row[i], b = row[i | Step];
      row[i] = __builtin_shuffle(a, b, low), row[i | Step] = __builtin_shuffle(a, b, high);
    }
}

template <class A>
inline __attribute__((always_inline)) void transpose(vec<A> (&row)[lanes<A>]) {
  exchange<1, A>(row);
  if constexpr (lanes<A> > 2) exchange<2, A>(row);
  if constexpr (lanes<A> > 4) exchange<4, A>(row);
  if constexpr (lanes<A> > 8) exchange<8, A>(row);
}

// Lane l, element i is from[l * pitch + i]: all lanes of element i to at(i). Lanes from `count` on may hold anything.
template <class T, class At>
void read_lanes(const T* from, int64_t pitch, int64_t count, int64_t elements, At at) {
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  if (elements < N) {
    for (int64_t i = 0; i < elements; ++i)
      for (int64_t lane = 0; lane < count; ++lane) at(i)[lane] = widen(from[lane * pitch + i]);
    return;
  }
  for (int64_t first = 0; first < count; first += N)
    for (int64_t next = 0; next < elements; next += N) {
      const int64_t i = least(next, elements - N);  // the last ones overlap those before
      vec<A> row[N];
#pragma GCC unroll 16
      for (int l = 0; l < N; ++l) row[l] = load_as<A>(from + least(first + l, count - 1) * pitch + i);
      transpose<A>(row);
      for (int l = 0; l < N; ++l) store(at(i + l) + first, row[l]);
    }
}

// The other way: all lanes of element i are at from(i), in the accumulator type.
template <class T, class From>
void write_lanes(T* to, int64_t pitch, int64_t count, int64_t elements, From from) {
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  if (elements < N) {
    for (int64_t i = 0; i < elements; ++i)
      for (int64_t lane = 0; lane < count; ++lane) to[lane * pitch + i] = narrow<T>(from(i)[lane]);
    return;
  }
  for (int64_t first = 0; first < count; first += N)
    for (int64_t next = 0; next < elements; next += N) {
      const int64_t i = least(next, elements - N);
      vec<A> row[N];
#pragma GCC unroll 16
      for (int l = 0; l < N; ++l) row[l] = load(from(i + l) + first);
      transpose<A>(row);
      for (int l = 0; l < least(N, count - first); ++l) store_as<T, A>(to + (first + l) * pitch + i, row[l]);
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
