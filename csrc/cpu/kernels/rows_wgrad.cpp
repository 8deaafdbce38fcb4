// Depthwise 3x3 on the rows of a tensor where they lie, wgrad (cpu/rows.h): the nine sums of a filter stay in registers
// while a band goes by. A row of x meets the three rows of gy that read it, so that a product takes two thirds of a
// load; lanes are added up at the very end.
#include "cpu/kernels/rows.h"
#include "cpu/kernels/transpose.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kTaps = 3;
constexpr int64_t kProducts = 256;  // that a lane sums before they join the totals: short sums round less

template <class A>
using Sums = vec<A>[kTaps][kTaps];

// One vector of a row of x with filter rows LO..HI: filter row r belongs to the row of gy that is r rows above `gy`.
template <int LO, int HI, class A>
inline __attribute__((always_inline)) void add_tile(const A* x, const A* gy, int64_t width, int64_t column, Place place,
                                                    mask_of<A> mask, Sums<A>& sum) {
  const auto fresh = [&](vec<A> value) {  // the last vector overlaps the one before it
    return place == Place::last ? (vec<A>)((mask_of<A>)value & mask) : value;
  };
  vec<A> g[kTaps];
#pragma GCC unroll 3
  for (int r = LO; r <= HI; ++r) g[r] = fresh(load(gy - r * width + column));
#pragma GCC unroll 3
  for (int s = 0; s < kTaps; ++s) {
    const vec<A> value = fresh(source(x, column, s, place));
#pragma GCC unroll 3
    for (int r = LO; r <= HI; ++r) sum[r][s] += g[r] * value;
  }
}

template <int LO, int HI, class A>
inline __attribute__((always_inline)) void add_row(const A* x, const A* gy, int64_t width, mask_of<A> mask,
                                                   Sums<A>& sum) {
  const int64_t last = width - lanes<A>;
  add_tile<LO, HI>(x, gy, width, 0, Place::first, mask, sum);
  for (int64_t at = lanes<A>; at < last; at += lanes<A>) add_tile<LO, HI>(x, gy, width, at, Place::inner, mask, sum);
  add_tile<LO, HI>(x, gy, width, last, Place::last, mask, sum);
}

// Adds rows [top, bottom) of gy, at least one, to the totals.
template <class A>
void add_rows(const A* x, const A* gy, int64_t width, int64_t height, int64_t top, int64_t bottom, A* totals) {
  const int64_t fresh = (width - 1) % lanes<A> + 1;  // lanes of the last vector
  const mask_of<A> mask = ~first_lanes<A>(lanes<A> - fresh);
  Sums<A> sum;
#pragma GCC unroll 3
  for (int r = 0; r < kTaps; ++r)
#pragma GCC unroll 3
    for (int s = 0; s < kTaps; ++s) sum[r][s] = vec<A>{};
  for (int64_t h = most(0, top - 1); h < least(height, bottom + 1); ++h) {
    const A *row = x + h * width, *g = gy + (h + 1) * width;
    const bool first = h + 1 < bottom, middle = h >= top && h<bottom, last = h> top;
    if (first && middle && last) {
      add_row<0, 2>(row, g, width, mask, sum);
    } else if (middle && last) {
      add_row<1, 2>(row, g, width, mask, sum);
    } else if (first && middle) {
      add_row<0, 1>(row, g, width, mask, sum);
    } else if (first) {
      add_row<0, 0>(row, g, width, mask, sum);
    } else if (middle) {
      add_row<1, 1>(row, g, width, mask, sum);
    } else {
      add_row<2, 2>(row, g, width, mask, sum);
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < kTaps; ++r)
#pragma GCC unroll 3
    for (int s = 0; s < kTaps; ++s) {
      A* to = totals + (r * kTaps + s) * lanes<A>;
      store(to, load(to) + sum[r][s]);
    }
}

// The lanes of each of the totals, added up.
template <class A>
void lane_sums(const A* totals, A* sums) {
  constexpr int N = lanes<A>, taps = kTaps * kTaps;
  for (int first = 0; first < taps; first += N) {
    vec<A> row[N];
    for (int i = 0; i < N; ++i) row[i] = first + i < taps ? load(totals + (first + i) * N) : vec<A>{};
    transpose<A>(row);
#pragma GCC unroll 4
    for (int half = N / 2; half; half /= 2)
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) row[i] += row[i + half];
    for (int i = 0; i < N && first + i < taps; ++i) sums[first + i] = row[0][i];
  }
}

template <class A>
void gradient_task(const RowsGradient& p, int64_t channel, int64_t split) {
  const WeightGradient& c = p.problem;
  const int64_t height = c.axis[1].out, width = c.axis[2].out;
  const auto x_of = [&](int64_t n, int64_t k) {
    return static_cast<const A*>(c.x) + n * c.x_strides.n + k / p.multiplier * c.x_strides.c;
  };
  const auto gy_of = [&](int64_t n, int64_t k) {
    return static_cast<const A*>(c.gy) + n * c.gy_strides.n + k * c.gy_strides.c;
  };
  A totals[kTaps * kTaps * lanes<A>] = {};
  const int64_t at_once = most(4, kProducts * lanes<A> / width), units = c.n * p.bands;
  const int64_t begin = split * units / p.splits, end = (split + 1) * units / p.splits;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.bands, top = unit % p.bands * p.rows, bottom = least(height, top + p.rows);
    const A *x = x_of(n, channel), *gy = gy_of(n, channel);
    // Meanwhile, ask for what the next unit will read.
    const bool more = unit + 1 < end;
    const int64_t later = more ? (unit + 1) / p.bands : n, offset = more ? (unit + 1) % p.bands * p.rows - top : 0;
    const A *next_x = x_of(later, channel + !more) + offset * width,
            *next_gy = gy_of(later, channel + !more) + offset * width;
    for (int64_t h = top, stop; h < bottom; h = stop) {
      stop = bottom - h < 2 * at_once ? bottom - h > at_once ? h + (bottom - h + 1) / 2 : bottom : h + at_once;
      const int64_t bytes = (stop - h) * width * int64_t(sizeof(A));
      prefetch(next_x + h * width, bytes), prefetch(next_gy + h * width, bytes);
      add_rows(x, gy, width, height, h, stop, totals);
    }
  }
  A sums[kTaps * kTaps];
  lane_sums(totals, sums);
  A* to = p.splits == 1 ? static_cast<A*>(c.gw) : static_cast<A*>(c.partial) + split * p.channels * kTaps * kTaps;
  for (int t = 0; t < kTaps * kTaps; ++t) to[channel * kTaps * kTaps + t] = sums[t];
}

}  // namespace

void rows_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const RowsGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using A = decltype(type);
    if constexpr (std::is_same_v<A, accumulator_t<A>>)
      for (int64_t task = begin; task < end; ++task) gradient_task<A>(p, task / p.splits, task % p.splits);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
