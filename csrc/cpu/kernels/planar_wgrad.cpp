// Depthwise convolution in NCHW, wgrad: lanes lie along the width (cpu/depthwise.h). The sums of up to three filter
// rows times four columns stay in registers while a band goes by, so that a source vector is loaded once for up to
// three of them; lanes are added up at the very end.
#include "cpu/kernels/planar.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kRows = 3;

// Part of a band: gradients of `rows` output rows, whose lines are a whole number of vectors long, zero past the end.
template <class A>
struct Patch {
  const A *x, *gy;
  int64_t x_next, gy_next;  // elements from a row to the one that many filter rows share
  int64_t rows, vectors;
  mask_of<A> mask;  // of the last vector
};

// What the gradients of output rows HI..LO have from one source row: row `at - i` of gy belongs to filter row i.
template <int LO, int HI, class A, int N, int S>
inline __attribute__((always_inline)) void add_row(const Patch<A>& p, const int64_t* columns, const A* x, const A* gy,
                                                   vec<A> (&sum)[N][S]) {
  const auto add = [&](int64_t j, auto&& masked) {
    vec<A> g[N];
#pragma GCC unroll 4
    for (int i = LO; i <= HI; ++i) g[i] = load(gy - i * p.gy_next + j);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      const vec<A> value = masked(load(x + columns[s] + j));
#pragma GCC unroll 4
      for (int i = LO; i <= HI; ++i) sum[i][s] += g[i] * value;
    }
  };
  int64_t j = 0;
  for (int64_t v = 1; v < p.vectors; ++v, j += lanes<A>) add(j, [](vec<A> value) { return value; });
  // Past the end of a row gy is zero, but x may be anything, and zero times infinity is not zero.
  add(j, [&](vec<A> value) { return (vec<A>)((mask_of<A>)value & p.mask); });
}

// Adds to totals[i * row + s], vectors: N filter rows from that of p.x on, S columns.
template <class A, int N, int S>
void gradients(const Patch<A>& p, const int64_t* columns, A* totals, int64_t row) {
  vec<A> sum[N][S];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) sum[i][s] = vec<A>{};
  const A *x = p.x, *gy = p.gy;
  if constexpr (N == 1) {
    for (int64_t m = 0; m < p.rows; ++m, x += p.x_next, gy += p.gy_next) add_row<0, 0>(p, columns, x, gy, sum);
  } else if (p.rows == 1) {
    add_row<0, 0>(p, columns, x, gy, sum);
    add_row<1, 1>(p, columns, x + p.x_next, gy + p.gy_next, sum);
    add_row<2, 2>(p, columns, x + 2 * p.x_next, gy + 2 * p.gy_next, sum);
  } else {
    add_row<0, 0>(p, columns, x, gy, sum);
    x += p.x_next, gy += p.gy_next;
    add_row<0, 1>(p, columns, x, gy, sum);
    for (int64_t m = 2; m < p.rows; ++m) {
      x += p.x_next, gy += p.gy_next;
      add_row<0, 2>(p, columns, x, gy, sum);
    }
    x += p.x_next, gy += p.gy_next;
    add_row<1, 2>(p, columns, x, gy, sum);
    x += p.x_next, gy += p.gy_next;
    add_row<2, 2>(p, columns, x, gy, sum);
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      A* to = totals + (i * row + s) * lanes<A>;
      store(to, load(to) + sum[i][s]);
    }
}

// All columns of N filter rows: as many at a time as there are registers for.
template <class A, int N>
void columns_of(const Patch<A>& p, const int64_t* columns, int64_t count, A* totals) {
  constexpr int most_columns = N == 1 ? 7 : 4;
  for (int64_t s = 0, some; s < count; s += some) {
    const int64_t left = count - s;
    A* to = totals + s * lanes<A>;
    if (left >= most_columns) {
      some = most_columns, gradients<A, N, most_columns>(p, columns + s, to, count);
    } else if (left >= 3) {
      some = 3, gradients<A, N, 3>(p, columns + s, to, count);
    } else {
      some = 1, gradients<A, N, 1>(p, columns + s, to, count);
    }
  }
}

// Products that one lane sums before they join the totals: rounding errors stay those of short sums.
constexpr int64_t kProducts = 128;

template <class A>
struct Memory {
  A *x, *gy, *totals;  // totals: [taps in the order of use][lanes]
};

// What the next unit will read: asked for while this one is computed.
struct Ahead {
  const char *x, *gy;
  int64_t x_row, gy_row;  // bytes of source, of gradient, for a row of gradient
};

// Adds one band of one plane to the totals.
template <class A>
void add_band(const Planar& b, const Memory<A>& m, int64_t rows, int64_t line, const Ahead& ahead) {
  const PlanarPhase& phase = b.phases[0];
  Patch<A> p;
  p.vectors = line / lanes<A>, p.x_next = b.next, p.gy_next = b.share * line;
  p.mask = first_lanes<A>(b.axis[2].out - (p.vectors - 1) * lanes<A>);
  const int64_t at_once = most(kRows, kProducts / p.vectors);
  const int64_t* columns = b.columns + phase.first_column;
  A* totals = m.totals;
  for (const Strip* strip = b.strips; strip < b.strips + phase.strips; ++strip)
    for (int64_t r = 0, many; r < strip->rows; r += many, totals += many * phase.columns * lanes<A>) {
      many = r + kRows <= strip->rows ? kRows : 1;
      for (int64_t first = 0; first < least(b.share, rows); ++first)
        for (int64_t i = first; i < rows; i += at_once * b.share) {
          p.rows = least(at_once, (rows - i - 1) / b.share + 1);
          if (strip == b.strips && r == 0) {
            prefetch(ahead.x + i * ahead.x_row, p.rows * ahead.x_row);
            prefetch(ahead.gy + i * ahead.gy_row, p.rows * ahead.gy_row);
          }
          p.x = m.x + strip->offset + r * b.next + i * b.axis[1].mul * b.row, p.gy = m.gy + i * line;
          many == 1 ? columns_of<A, 1>(p, columns, phase.columns, totals)
                    : columns_of<A, kRows>(p, columns, phase.columns, totals);
        }
    }
}

template <class A>
A lane_sum(const A* from) {
  A sum[lanes<A>];
  for (int i = 0; i < lanes<A>; ++i) sum[i] = from[i];
  for (int half = lanes<A> / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

// Where unit `unit` of a filter begins in x and gy.
template <class T>
struct Unit {
  int64_t d, band;
  const T *x, *gy;
};
template <class T>
Unit<T> unit_of(const PlanarGradient& p, int64_t channel, int64_t unit) {
  const Planar& b = *p.planar;
  const WeightGradient& c = p.problem;
  const int64_t slices = b.axis[0].out, band = unit % b.bands, d = unit / b.bands % slices, n = unit / b.bands / slices;
  return {d, band, static_cast<const T*>(c.x) + n * c.x_strides.n + channel / p.multiplier * c.x_strides.c,
          static_cast<const T*>(c.gy) + n * c.gy_strides.n + channel * c.gy_strides.c + d * c.gy_strides.at[0] +
              band * b.height * c.gy_strides.at[1]};
}

template <class T>
void gradient_task(const PlanarGradient& p, int64_t channel, int64_t split, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Planar& b = *p.planar;
  const WeightGradient& c = p.problem;
  const int64_t line = (b.axis[2].out + lanes<A> - 1) / lanes<A> * lanes<A>;
  const int64_t x_row = b.axis[1].mul * c.x_strides.at[1];
  const T *x_end = static_cast<const T*>(c.x) + c.n * c.x_strides.n,
          *gy_end = static_cast<const T*>(c.gy) + c.n * c.gy_strides.n;
  fill(m.totals, b.taps * lanes<A>, A(0));
  const int64_t units = c.n * b.axis[0].out * b.bands;
  for (int64_t unit = split * units / p.splits; unit < (split + 1) * units / p.splits; ++unit) {
    const Unit<T> now = unit_of<T>(p, channel, unit), next = unit_of<T>(p, channel, unit + 1);
    fill_band(b, m.x, now.x, c.x_strides, now.d, now.band, x_end);
    const int64_t rows = least(b.height, b.axis[1].out - now.band * b.height);
    copy_rows(m.gy, line, now.gy, c.gy_strides.at[1], rows, b.axis[2].out, gy_end);
    const Ahead ahead{reinterpret_cast<const char*>(next.x + next.band * b.height * x_row),
                      reinterpret_cast<const char*>(next.gy), x_row * int64_t(sizeof(T)),
                      c.gy_strides.at[1] * int64_t(sizeof(T))};
    add_band(b, m, rows, line, ahead);
  }
  for (int64_t t = 0; t < b.taps; ++t) {
    const A sum = lane_sum(m.totals + t * lanes<A>);
    if (p.splits == 1) {
      static_cast<T*>(c.gw)[channel * b.taps + b.weights[t]] = narrow<T>(sum);
    } else {
      static_cast<A*>(c.partial)[(split * p.channels + channel) * b.taps + b.weights[t]] = sum;
    }
  }
}

}  // namespace

void planar_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PlanarGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Planar& b = *p.planar;
    const int64_t gy = b.height * (b.axis[2].out + lanes<A>);
    Memory<A> m;
    m.x = static_cast<A*>(scratch(size_t(b.elements + gy + b.taps * lanes<A>) * sizeof(A)));
    m.gy = m.x + b.elements, m.totals = m.gy + gy;
    fill(m.x, b.elements + gy, A(0));
    for (int64_t task = begin; task < end; ++task) gradient_task<T>(p, task / p.splits, task % p.splits, m);
  });
}

// The second stage of either layout: tasks are filters; the splits are added in order.
void depthwise_gradient_sum(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const GradientSum*>(context);
  visit_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    for (int64_t i = begin * p.taps; i < end * p.taps; ++i) {
      A sum = 0;
      for (int64_t split = 0; split < p.splits; ++split)
        sum += static_cast<const A*>(p.partial)[split * p.channels * p.taps + i];
      static_cast<T*>(p.gw)[i] = narrow<T>(sum);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
