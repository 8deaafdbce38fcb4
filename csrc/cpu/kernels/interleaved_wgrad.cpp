// Depthwise convolution on interleaved planes, wgrad (cpu/interleaved.h). The sums of a few rows and columns of the
// filter stay in registers while a band goes by: an output is one vector of gy and a source vector a tap.
#include "cpu/kernels/interleaved.h"
#include "cpu/kernels/range.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One vector of channels of some rows of outputs.
template <class A>
struct Patch {
  const A *x, *gy;
  int64_t rows, columns;  // outputs
  int64_t x_down, x_right, gy_down;
  int64_t x_row, x_column;  // elements from one tap's source to the next
  PhaseAxis down, right;    // `first`: of output 0
  int64_t height, width;    // of x
};

// The outputs that taps [tap, tap + count) read inside: what is left of them lies on padding.
inline Range outputs_of(const PhaseAxis& axis, int64_t tap, int64_t count, int64_t in, int64_t outputs) {
  const int64_t low = axis.first + tap * axis.apart, high = low + (count - 1) * axis.apart;
  const int64_t first = inside(high, axis.mul, in, outputs).first, last = inside(low, axis.mul, in, outputs).last;
  return {first, most(first, last)};
}

// Rows and columns of outputs alone.
template <class A>
Patch<A> some_rows(Patch<A> p, const Range& rows) {
  p.rows = rows.last - rows.first, p.x += rows.first * p.x_down, p.gy += rows.first * p.gy_down;
  return p;
}
template <class A>
Patch<A> some_columns(Patch<A> p, const Range& columns) {
  p.columns = columns.last - columns.first;
  p.x += columns.first * p.x_right, p.gy += columns.first * lanes<A>;
  return p;
}

// Adds to totals[r * filter_row + s], vectors kBlock apart: R filter rows, S columns.
template <int R, int S, class A>
void gradients(const Patch<A>& all, int64_t tap, A* totals, int64_t filter_row) {
  const Patch<A> p = some_columns(all, outputs_of(all.right, tap, S, all.width, all.columns));
  const A* x = p.x + tap * p.x_column;
  vec<A> sum[R][S];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) sum[r][s] = vec<A>{};
  const A* gy = p.gy;
  const int64_t row = p.x_row, column = p.x_column;
  for (int64_t h = 0; h < p.rows; ++h, x += p.x_down, gy += p.gy_down) {
    const A *from = x, *g = gy, *const end = gy + p.columns * lanes<A>;
    for (; g < end; g += lanes<A>, from += p.x_right) {
      const vec<A> value = load(g);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) sum[r][s] += value * load(from + r * row + s * column);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) {
      A* to = totals + (r * filter_row + s) * kBlock;
      store(to, load(to) + sum[r][s]);
    }
}

// R filter rows of all `columns` of the filter.
template <int R, class A>
void filter_rows(const Patch<A>& p, A* totals, int64_t columns) {
  constexpr int most_columns = R == 3 ? 4 : R == 2 ? 7 : 14;
  for (int64_t s = 0, some; s < columns; s += some) {
    const int64_t left = columns - s;
    A* to = totals + s * kBlock;
    if (left >= most_columns) {
      some = most_columns, gradients<R, most_columns>(p, s, to, columns);
    } else if (R < 3 && left >= 5) {
      some = 5, gradients<R, 5>(p, s, to, columns);
    } else if (left >= 3) {
      some = 3, gradients<R, 3>(p, s, to, columns);
    } else {
      some = 1, gradients<R, 1>(p, s, to, columns);
    }
  }
}

template <class A>
void filter(const Patch<A>& p, A* totals, int64_t rows, int64_t columns) {
  const bool threes = columns == 3 || columns == 4 || columns < 3;
  for (int64_t r = 0, some; r < rows; r += some, totals += some * columns * kBlock) {
    some = least(rows - r, threes ? 3 : 2);
    Patch<A> now = some_rows(p, outputs_of(p.down, r, some, p.height, p.rows));
    if (now.rows == 0) continue;
    now.x += r * p.x_row;
    if (some == 3) filter_rows<3>(now, totals, columns);
    if (some == 2) filter_rows<2>(now, totals, columns);
    if (some == 1) filter_rows<1>(now, totals, columns);
  }
}

// Likewise of one filter row, S columns times terms [C, C + 4) of a group of G.
template <int G, int C, int S, class A>
void term_gradients(const Patch<A>& p, const A* x, A* totals) {
  vec<A> sum[S][4] = {};
  const A* gy = p.gy;
  for (int64_t h = 0; h < p.rows; ++h, x += p.x_down, gy += p.gy_down) {
    const A *from = x, *g = gy, *const end = gy + p.columns * lanes<A>;
    for (; g < end; g += lanes<A>, from += p.x_right) {
      const vec<A> value = load(g);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
        for_terms<4>([&](auto c) __attribute__((always_inline)) {
          sum[s][c.value] += value * term<G, C + c.value>(from + s * p.x_column);
        });
    }
  }
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      A* to = totals + (s * G + C + c) * kBlock;
      store(to, load(to) + sum[s][c]);
    }
}

template <int G, class A>
void group_filter(const Patch<A>& p, A* totals, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0, some; s < columns; s += some, totals += some * G * kBlock) {
      const A* x = p.x + r * p.x_row + s * p.x_column;
      some = columns - s >= 3 ? 3 : 1;
      for_terms<G / 4>([&](auto four) {
        some == 3 ? term_gradients<G, 4 * four.value, 3>(p, x, totals)
                  : term_gradients<G, 4 * four.value, 1>(p, x, totals);
      });
    }
}

constexpr int64_t kPixels = 256;  // outputs that a sum runs over before it joins the totals: short sums round less

// `totals` is [tap][term][kBlock].
template <int G, class A>
void add_band(const Interleaved& b, const A* x, const A* gy, int64_t vectors, int64_t band, int64_t rows, A* totals) {
  constexpr int64_t N = lanes<A>;
  const PhaseAxis &height = b.rows_of[0], &width = b.columns_of[0];
  const int64_t at_once = most(1, kPixels / b.width.out), row = b.pitch * N;
  for (int64_t v = 0; v < vectors; ++v, x += b.rows * row, gy += b.phase_rows * b.width.out * N, totals += N)
    for (int64_t h = 0; h < rows; h += at_once) {
      Patch<A> p{x + (height.first - b.top + h * height.mul) * row + (width.first + b.lead) * N,
                 gy + h * b.width.out * N,
                 least(at_once, rows - h),
                 b.width.out,
                 height.mul * row,
                 width.mul * N,
                 b.width.out * N,
                 height.apart * row,
                 width.apart * N,
                 height,
                 width,
                 b.height.in,
                 b.width.in};
      p.down.first += (band * b.phase_rows + h) * height.mul;
      if (b.height.pad_mode != PadMode::zeros) p.down.first = p.right.first = 0, p.height = p.width = kEverywhere;
      if constexpr (G == 1) {
        filter(p, totals, height.taps, width.taps);
      } else {
        group_filter<G>(p, totals, height.taps, width.taps);
      }
    }
}

// The gradients of `rows` output rows, [vector][pixel][lane].
template <class A, class T>
void read_gradients(const Interleaved& b, Layout layout, A* to, const T* from, const Strides& strides, int64_t channels,
                    int64_t rows) {
  for (int64_t v = 0; v * lanes<A> < channels; ++v, from += lanes<A> * strides.c) {
    const int64_t count = least(lanes<A>, channels - v * lanes<A>), width = b.width.out;
    if (layout == Layout::nhwc) {
      read_pixels(to, from, rows * width, strides.at[2], count);
    } else {
      read_planes(to, width * lanes<A>, from, rows, width, {strides.c, count});
    }
    to += b.phase_rows * width * lanes<A>;
  }
}

template <class A>
struct Memory {
  A *x, *gy, *totals;
};

template <class T>
void gradient_task(const InterleavedGradient& p, int64_t block, int64_t split, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Interleaved& b = *p.layout;
  const WeightGradient& c = p.problem;
  const int64_t first = block * kBlock, channels = least(kBlock, p.channels - first);
  const int64_t taps = b.taps * p.terms;
  zero(m.totals, taps * kBlock);
  const int64_t units = c.n * b.bands;
  for (int64_t unit = split * units / p.splits; unit < (split + 1) * units / p.splits; ++unit) {
    const int64_t n = unit / b.bands, band = unit % b.bands, top = band * b.phase_rows;
    const int64_t rows = least(b.phase_rows, b.height.out - top);
    read_band(b, c.layout, m.x, static_cast<const T*>(c.x) + n * c.x_strides.n + first * c.x_strides.c, c.x_strides,
              channels, band);
    const T* gy = static_cast<const T*>(c.gy) + n * c.gy_strides.n + first * c.gy_strides.c;
    read_gradients(b, c.layout, m.gy, gy + top * c.gy_strides.at[1], c.gy_strides, channels, rows);
    with_terms<A>(p.terms, [&](auto terms) {
      add_band<terms.value>(b, m.x, m.gy, (channels + lanes<A> - 1) / lanes<A>, band, rows, m.totals);
    });
  }
  // A filter's elements as they lie: terms follow taps, or taps terms.
  const auto sums_of = [&](int64_t i) {
    const int64_t place = p.terms == 1 || c.w_c == 1 ? i : i % b.taps * p.terms + i / b.taps;
    return m.totals + place * kBlock;
  };
  if (p.splits == 1) {
    write_lanes(static_cast<T*>(c.gw) + first * taps, taps, channels, taps, sums_of);
  } else {
    write_lanes(static_cast<A*>(c.partial) + (split * p.channels + first) * taps, taps, channels, taps, sums_of);
  }
}

}  // namespace

void interleaved_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const InterleavedGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Interleaved& b = *p.layout;
    const int64_t gy = b.phase_rows * b.width.out * kBlock, totals = b.taps * p.terms * kBlock;
    Memory<A> m;
    m.x = static_cast<A*>(scratch(size_t(b.elements() + gy + totals) * sizeof(A)));
    m.gy = m.x + b.elements(), m.totals = m.gy + gy;
    zero(m.x, b.elements() + gy);
    for (int64_t task = begin; task < end; ++task) gradient_task<T>(p, task / p.splits, task % p.splits, m);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
