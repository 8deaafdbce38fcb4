// Dense and grouped convolution on bands, wgrad (cpu/band.h): lanes are kBlock output channels of gy, a source value is
// broadcast to them. The sums of a few taps times a few source channels stay in registers while a band goes by.
#include "cpu/kernels/band_values.h"
#include "cpu/kernels/interleaved.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Some rows of outputs. gy is [vector][pixel][lane].
template <class A>
struct Patch {
  const A *x, *gy;
  int64_t rows, columns;  // outputs
  int64_t x_down, x_right, gy_down;
  int64_t gy_vector, x_channel;  // elements from one vector of gy, one channel of x, to the next
};

// Adds to totals[(s * channels + c) * kBlock + j * lanes]: S taps, C channels, J vectors.
template <int S, int C, int J, class A>
void gradients(const Patch<A>& p, const BandTap* taps, int64_t pixel, A* totals, int64_t channels) {
  vec<A> sum[S][C][J] = {};
  const A* tap[S];
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) tap[s] = p.x + taps[s].offset / kBlock * pixel;
  const A* gy = p.gy;
  for (int64_t h = 0; h < p.rows; ++h, gy += p.gy_down) {
    int64_t at = h * p.x_down;
    const A* const end = gy + p.columns * lanes<A>;
    for (const A* g = gy; g < end; g += lanes<A>, at += p.x_right) {
      vec<A> value[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) value[j] = load(g + j * p.gy_vector);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          const vec<A> x = broadcast(tap[s][at + c * p.x_channel]);
#pragma GCC unroll 4
          for (int j = 0; j < J; ++j) sum[s][c][j] += value[j] * x;
        }
    }
  }
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        A* to = totals + (s * channels + c) * kBlock + j * lanes<A>;
        store(to, load(to) + sum[s][c][j]);
      }
}

// S taps of all channels.
template <int S, int J, class A>
void tap_gradients(Patch<A> p, const BandTap* taps, int64_t pixel, A* totals, int64_t channels) {
  constexpr int C = 12 / J / S < 4 ? 12 / J / S : 4;
  int64_t c = 0;
  for (; c + C <= channels; c += C, p.x += C * p.x_channel, totals += C * kBlock)
    gradients<S, C, J>(p, taps, pixel, totals, channels);
  for (; c < channels; ++c, p.x += p.x_channel, totals += kBlock) gradients<S, 1, J>(p, taps, pixel, totals, channels);
}

// All taps, `vectors` vectors of lanes: two at a time, as far as there are two.
template <class A>
void band_gradients(Patch<A> p, const Band& b, int64_t pixel, A* totals, int64_t channels, int64_t vectors) {
  const int64_t count = b.phases[0].count;
  const auto all_taps = [&](auto three, auto one) {
    int64_t t = 0;
    for (; t + 3 <= count; t += 3) three(p, b.taps + t, pixel, totals + t * channels * kBlock, channels);
    for (; t < count; ++t) one(p, b.taps + t, pixel, totals + t * channels * kBlock, channels);
  };
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2, p.gy += 2 * p.gy_vector, totals += 2 * lanes<A>)
    all_taps(tap_gradients<3, 2, A>, tap_gradients<1, 2, A>);
  if (v < vectors) all_taps(tap_gradients<3, 1, A>, tap_gradients<1, 1, A>);
}

constexpr int64_t kPixels = 256;  // outputs that a sum runs over before it joins the totals: short sums round less

template <class A>
struct Memory {
  A *x, *gy, *totals;
};

// The gradients of a band's `rows` output rows; a lane that does not exist keeps what it has, and nobody reads its sum.
template <class T, class A>
void read_gradients(const BlockedGradient& p, A* to, const T* from, int64_t rows, int64_t count) {
  const WeightGradient& c = p.problem;
  const int64_t width = c.axis[2].out;
  for (int64_t first = 0; first < count; first += lanes<A>, from += lanes<A> * c.gy_strides.c) {
    const int64_t some = least(lanes<A>, count - first);
    if (c.layout == Layout::nhwc) {
      read_pixels(to, from, rows * width, c.gy_strides.at[2], some);
    } else {
      read_planes(to, width * lanes<A>, from, rows, width, {c.gy_strides.c, some});
    }
    to += p.band->height * width * lanes<A>;
  }
}

template <class T, class A>
void add_unit(const BlockedGradient& p, int64_t g, int64_t block, int64_t unit, const Memory<A>& m) {
  const WeightGradient& c = p.problem;
  const Band& b = *p.band;
  const int64_t band = unit % b.bands, d = unit / b.bands % c.axis[0].out, n = unit / b.bands / c.axis[0].out;
  const int64_t k = block * kBlock, count = least(kBlock, c.k - k), top = band * b.height, width = c.axis[2].out;
  const int64_t rows = least(b.height, c.axis[1].out - top), at_once = most(1, kPixels / width);
  fill_values(b, c.layout, m.x, static_cast<const T*>(c.x) + n * c.x_strides.n, g * c.c, c.c, c.x_strides, d, band);
  const T* gy = static_cast<const T*>(c.gy) + n * c.gy_strides.n + (g * c.k + k) * c.gy_strides.c;
  read_gradients(p, m.gy, gy + d * c.gy_strides.at[0] + top * c.gy_strides.at[1], rows, count);
  const Grid grid = grid_of(b, c.layout, c.c);
  const int64_t down = c.axis[1].mul * b.pixels * grid.pixel, right = c.axis[2].mul * grid.pixel;
  for (int64_t h = 0; h < rows; h += at_once) {
    const Patch<A> patch{m.x + h * down,
                         m.gy + h * width * lanes<A>,
                         least(at_once, rows - h),
                         width,
                         down,
                         right,
                         width * lanes<A>,
                         b.height * width * lanes<A>,
                         grid.channel};
    band_gradients(patch, b, grid.pixel, m.totals, c.c, (count + lanes<A> - 1) / lanes<A>);
  }
}

template <class T>
void gradient_task(const BlockedGradient& p, int64_t task, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const WeightGradient& c = p.problem;
  const Band& b = *p.band;
  const int64_t blocks = (c.k + kBlock - 1) / kBlock, split = task % p.splits, block = task / p.splits % blocks;
  const int64_t g = task / p.splits / blocks, units = c.n * c.axis[0].out * b.bands;
  fill(m.totals, b.taps_in_all * c.c * kBlock, A(0));
  for (int64_t unit = split * units / p.splits; unit < (split + 1) * units / p.splits; ++unit)
    add_unit<T>(p, g, block, unit, m);
  const int64_t first = g * c.w_group + block * kBlock * c.w_k, all = p.problem.groups * c.w_group;
  for (int64_t t = 0; t < b.taps_in_all; ++t)
    for (int64_t cs = 0; cs < c.c; ++cs)
      for (int64_t lane = 0; lane < least(kBlock, c.k - block * kBlock); ++lane) {
        const int64_t at = first + lane * c.w_k + cs * c.w_c + b.taps[t].tap * c.w_tap[2];
        const A sum = m.totals[(t * c.c + cs) * kBlock + lane];
        if (p.splits == 1) {
          static_cast<T*>(c.gw)[at] = narrow<T>(sum);
        } else {
          static_cast<A*>(c.partial)[split * all + at] = sum;
        }
      }
}

}  // namespace

void blocked_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const BlockedGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Band& b = *p.band;
    const int64_t x = b.elements / kBlock * p.problem.c, gy = b.height * p.problem.axis[2].out * kBlock;
    const int64_t totals = b.taps_in_all * p.problem.c * kBlock;
    Memory<A> m;
    m.gy = static_cast<A*>(scratch(size_t(x + gy + totals) * sizeof(A)));
    m.totals = m.gy + gy, m.x = m.totals + totals;
    fill(m.gy, x + gy + totals, A(0));
    for (int64_t task = begin; task < end; ++task) gradient_task<T>(p, task, m);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
