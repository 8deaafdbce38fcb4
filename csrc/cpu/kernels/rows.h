// What the row kernels load (cpu/rows.h).
#pragma once

#include "cpu/kernels/planar.h"
#include "cpu/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Lane l gets lane l - 1 (Left) or l + 1, and zero enters.
template <bool Left, class A>
inline __attribute__((always_inline)) vec<A> shifted(vec<A> value) {
  constexpr int N = lanes<A>;
  mask_of<A> from;
#pragma GCC unroll 16
  for (int l = 0; l < N; ++l) from[l] = Left ? (l ? l - 1 : N) : l + 1;
  return __builtin_shuffle(value, vec<A>{}, from);
}

enum class Place { first, inner, last };  // of a vector in its row

// What tap s of the outputs from row[column] on reads: there is padding left of the first and right of the last.
template <class A>
inline __attribute__((always_inline)) vec<A> source(const A* row, int64_t column, int s, Place place) {
  if (place == Place::first && s == 0) return shifted<true, A>(load(row + column));
  if (place == Place::last && s == 2) return shifted<false, A>(load(row + column));
  return load(row + column + s - 1);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
