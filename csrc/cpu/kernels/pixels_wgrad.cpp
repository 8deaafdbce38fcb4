// Depthwise convolution in NHWC, wgrad: lanes are channels (cpu/depthwise.h), so nothing is summed across lanes. As in
// the forward pass a tile of outputs walks along the channels of a task, and a mask leaves out what lies on padding;
// the sums of a filter row stay in registers for a tile, then join those of all its taps, which stay in L1.
#include "cpu/kernels/pixels.h"
#include "cpu/kernels/transpose.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One output row, channels [first, last) of it: `sums` are [vector][tap][lane]. Tiles copy it, as those of
// pixels.cpp do.
template <class T>
struct Line {
  using A = accumulator_t<T>;
  const SourceRow<T>* rows;
  int64_t count, fresh, channels, multiplier, in, first, last, taps;
  PhaseAxis width;
  const T* gy;
  A* sums;
};

// Where the sum of channel c and tap 0 lies: the last vector overlaps the one before.
template <class T>
int64_t place_of(const Line<T>& l, int64_t c) {
  constexpr int64_t N = lanes<accumulator_t<T>>;
  const int64_t vector = (c - l.first) / N, first = most(0, least(l.first + vector * N, l.channels - N));
  return vector * l.taps * N + c - first;
}

constexpr int kBeside = 14;  // outputs at most of a tile whose rows are side by side: their pixels have a bit each

template <class A>
inline __attribute__((always_inline)) void add(A* to, vec<A> value) {
  store(to, load(to) + value);
}

// The gradients of outputs [i, i + count) of a vector.
template <class T>
inline __attribute__((always_inline)) void load_gradients(const Line<T>& l, int64_t i, int64_t count, int64_t c,
                                                          vec<accumulator_t<T>> (&g)[kTile]) {
#pragma GCC unroll 8
  for (int p = 0; p < kTile; ++p) {
    g[p] = vec<accumulator_t<T>>{};
    if (p < count) g[p] = load_as<accumulator_t<T>>(l.gy + (i + p) * l.channels + c);
  }
}

// Adds one row's part of outputs [0, count) of a tile: S taps in consecutive pixels from `from` on, outputs M pixels
// apart. Pixels before that of output `count` only meet outputs that exist; `tail` of gy is what the rest meet: they
// must not meet zeros, because they may be infinite.
template <int S, int M, class T>
inline __attribute__((always_inline)) void add_row(const T* from, int64_t pixel, uint32_t valid, int64_t count,
                                                   const vec<accumulator_t<T>> (&g)[kTile], const T* tail,
                                                   vec<accumulator_t<T>> (&sum)[S]) {
  using A = accumulator_t<T>;
  const T* rest = from + count * M * pixel;
  uint32_t now = valid & bits(0, count * M);
  keep_in_register(now);
#pragma GCC unroll 32
  for (int k = 0; k < kTile * M; ++k, from += pixel) {
    if (!(now & 1u << k)) continue;
    const vec<A> value = load_as<A>(from);
#pragma GCC unroll 8
    for (int p = 0; p < kTile; ++p)
      if (k >= p * M && k < p * M + S) sum[k - p * M] += g[p] * value;
  }
  valid >>= count * M;
#pragma GCC unroll 8
  for (int k = M; k < S; ++k, rest += pixel) {
    if (!(valid & 1u << (k - M))) continue;
    const vec<A> value = load_as<A>(rest);
#pragma GCC unroll 8
    for (int q = 0; k + q * M < S; ++q)
      if (q < count) sum[k + q * M] += load_as<A>(tail - q * pixel) * value;
  }
}

// Asks for what a tile of `Outputs` outputs from i on reads of a cache line of channels.
template <int Outputs, int S, int M, class T>
inline __attribute__((always_inline)) void ask_for_tile(const Line<T>& l, int64_t i, int64_t c) {
  const int64_t pixel = l.channels;
  ask_for<Outputs * M>(l.rows, l.count, l.fresh, (i * M + l.width.first + S - M) * pixel + c, pixel);
  if (!l.fresh) return;
#pragma GCC unroll 16
  for (int p = 0; p < Outputs; ++p) __builtin_prefetch(l.gy + (i + p) * pixel + c);
}

// Outputs [i, i + count).
template <class T, int S, int M>
void tile(const Line<T>& line, int64_t i, int64_t count) {
  const Line<T> l = line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, origin = i * M + w.first;
  const uint32_t valid = bits(-origin, least((count - 1) * M + S, l.in - origin));
  A* totals = l.sums;
  for (int64_t at = l.first; at < l.last; at += N, totals += l.taps * N) {
    const int64_t c = least(at, l.channels - N);
    const T* next = l.gy + (i + count) * pixel + c;
    if (at * int64_t(sizeof(T)) % 64 == 0) ask_for_tile<kTile, S, M>(l, i + count, c);
    vec<A> g[kTile];
    load_gradients(l, i, count, c, g);
    for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
      vec<A> sum[S] = {};
      add_row<S, M>(row->source + origin * pixel + c, pixel, valid, count, g, next - pixel, sum);
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) add(totals + (row->tap + w.tap + s) * N, sum[s]);
    }
  }
}

// Likewise R filter rows side by side: each gradient is loaded once, and then slides past the pixels that meet it, so
// that no sum waits for itself longer than a step takes. At least as many outputs as gradients that slide along.
template <class T, int S, int M, int R>
void tile_beside(const Line<T>& line, int64_t i, int64_t count) {
  const Line<T> l = line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  constexpr int Q = (S + M - 1) / M;  // outputs that a pixel meets
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, origin = i * M + w.first;
  const uint32_t valid = bits(-origin, least((count - 1) * M + S, l.in - origin));
  A* totals = l.sums;
  for (int64_t at = l.first; at < l.last; at += N, totals += l.taps * N) {
    const int64_t c = least(at, l.channels - N);
    const T* gy = l.gy + i * pixel + c;
    if (at * int64_t(sizeof(T)) % 64 == 0) ask_for_tile<kBeside, S, M>(l, i + count, c);
    vec<A> sum[R][S] = {}, g[Q] = {};
    const T* from[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) from[r] = l.rows[r].source + origin * pixel + c;
    uint32_t now = valid;
    // Outputs o - low to o - high, not included, each meet their pixel of [o * M, o * M + M).
    const auto step = [&](bool fresh, int low, int high) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int q = Q - 1; q > 0; --q) g[q] = g[q - 1];
      if (fresh) g[0] = load_as<A>(gy), gy += pixel;
#pragma GCC unroll 4
      for (int j = 0; j < M; ++j) {
        if (now & 1u << j)
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const vec<A> value = load_as<A>(from[r] + j * pixel);
#pragma GCC unroll 4
            for (int q = low; q < high; ++q)
              if (j + q * M < S) sum[r][j + q * M] += g[q] * value;
          }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) from[r] += M * pixel;
      now >>= M;
    };
#pragma GCC unroll 4
    for (int o = 0; o < Q - 1; ++o) step(true, 0, o + 1);
    for (int64_t o = Q - 1; o < count; ++o) step(true, 0, Q);
#pragma GCC unroll 4
    for (int o = 0; o < Q - 1; ++o) step(false, o + 1, Q);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < S; ++t) add(totals + (l.rows[r].tap + w.tap + t) * N, sum[r][t]);
  }
}

// Likewise with any taps.
template <class T>
void tile_apart(const Line<T>& line, int64_t i, int64_t count) {
  const Line<T> l = line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, origin = i * w.mul + w.first;
  for (int64_t t = 0; t < w.taps; ++t) {
    const Range outputs = inside(origin + t * w.apart, w.mul, l.in, count);
    const uint32_t valid = bits(outputs.first, outputs.last);
    if (!valid) continue;
    A* totals = l.sums;
    for (int64_t at = l.first; at < l.last; at += N, totals += l.taps * N) {
      const int64_t c = least(at, l.channels - N);
      vec<A> g[kTile];
      load_gradients(l, i, count, c, g);
      for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
        const T* from = row->source + (origin + t * w.apart) * pixel + c;
        vec<A> sum{};
#pragma GCC unroll 8
        for (int p = 0; p < kTile; ++p)
          if (valid & 1u << p) sum += g[p] * load_as<A>(from + p * w.mul * pixel);
        add(totals + (row->tap + w.tap + t) * N, sum);
      }
    }
  }
}

// One channel of all outputs: where channels are fewer than lanes, or several read one.
template <class T>
void single(const Line<T>& l, const SourceRow<T>& row, int64_t t, int64_t c) {
  constexpr int64_t N = lanes<accumulator_t<T>>;
  const PhaseAxis& w = l.width;
  const Range outputs = inside(w.first + t * w.apart, w.mul, l.in, w.outputs);
  const int64_t source = c / l.multiplier, pixel = l.channels / l.multiplier;
  accumulator_t<T> sum = 0;
  for (int64_t i = outputs.first; i < outputs.last; ++i)
    sum += widen(l.gy[i * l.channels + c]) * widen(row.source[(w.first + t * w.apart + i * w.mul) * pixel + source]);
  l.sums[place_of(l, c) + (row.tap + w.tap + t) * N] += sum;
}

template <class T>
void singles(const Line<T>& l) {
  for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row)
    for (int64_t t = 0; t < l.width.taps; ++t)
      for (int64_t c = l.first; c < l.last; ++c) single(l, *row, t, c);
}

template <class T, void (*Tile)(const Line<T>&, int64_t, int64_t), int Outputs = kTile>
void line(const Line<T>& l) {
  for_tiles(l.width.outputs, Outputs, [&](int64_t i, int64_t count) { Tile(l, i, count); });
}

// Side by side if there are registers for their sums.
template <class T, int S, int M>
void tile_line(const Line<T>& l) {
  if (S == 3 && l.width.outputs > 2) {
    if (l.count == 3) return line<T, tile_beside<T, 3, M, 3>, kBeside>(l);
    if (l.count == 2) return line<T, tile_beside<T, 3, M, 2>, kBeside>(l);
  }
  line<T, tile<T, S, M>>(l);
}

template <class T>
void (*line_for(const PixelGradient& p, const PhaseAxis& w))(const Line<T>&) {
  if (p.channels < lanes<accumulator_t<T>> || p.multiplier > 1) return singles<T>;
  if (w.apart == 1 && w.mul == 1) {
    if (w.taps == 3) return tile_line<T, 3, 1>;
    if (w.taps == 5) return tile_line<T, 5, 1>;
    if (w.taps == 7) return tile_line<T, 7, 1>;
  }
  if (w.apart == 1 && w.mul == 2) {
    if (w.taps == 3) return tile_line<T, 3, 2>;
    if (w.taps == 5) return tile_line<T, 5, 2>;
    if (w.taps == 7) return tile_line<T, 7, 2>;
  }
  return line<T, tile_apart<T>>;
}

constexpr int64_t kPixels = 256;  // outputs that are summed before the sums join the totals: short sums round less

template <class T>
void gradient_task(const PixelGradient& p, int64_t chunk, int64_t split) {
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const WeightGradient& c = p.problem;
  Line<T> l;
  l.first = p.chunks.first(chunk), l.last = p.chunks.last(chunk, p.channels), l.taps = p.taps;
  const int64_t elements = p.taps * ((l.last - l.first + N - 1) / N * N), slices = c.axis[0].out;
  const int64_t height = c.axis[1].out;
  A* totals = static_cast<A*>(
      scratch(size_t(2 * elements) * sizeof(A) + size_t(c.axis[0].taps * c.axis[1].taps) * sizeof(SourceRow<T>)));
  l.sums = totals + elements;
  auto* rows = reinterpret_cast<SourceRow<T>*>(l.sums + elements);
  for (int64_t i = 0; i < 2 * elements; ++i) totals[i] = 0;
  l.rows = rows, l.fresh = p.ahead ? c.axis[1].mul : 0, l.channels = p.channels, l.multiplier = p.multiplier;
  l.in = c.axis[2].in, l.width = p.phase[2][0];
  const auto run = line_for<T>(p, l.width);
  const int64_t units = c.n * slices * height, begin = split * units / p.splits, end = (split + 1) * units / p.splits;
  const int64_t at_once = kPixels / c.axis[2].out + 1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % height, d = unit / height % slices, n = unit / height / slices;
    l.count = source_rows(c.axis, p.phase, d, h, static_cast<const T*>(c.x) + n * c.x_strides.n, c.x_strides, rows);
    l.gy = static_cast<const T*>(c.gy) + n * c.gy_strides.n + d * c.gy_strides.at[0] + h * c.gy_strides.at[1];
    if (l.count > 0) run(l);
    if ((unit - begin) % at_once == at_once - 1 || unit == end - 1)
      for (int64_t i = 0; i < elements; ++i) totals[i] += l.sums[i], l.sums[i] = 0;
  }
  for (int64_t at = l.first; at < l.last; at += N) {
    const A* const sums = totals + place_of(l, at);
    const auto sums_of = [&](int64_t t) { return sums + t * N; };
    const int64_t count = least(N, l.last - at);
    if (p.splits == 1) {
      write_lanes(static_cast<T*>(c.gw) + at * p.taps, p.taps, count, p.taps, sums_of);
    } else {
      write_lanes(static_cast<A*>(c.partial) + (split * p.channels + at) * p.taps, p.taps, count, p.taps, sums_of);
    }
  }
}

}  // namespace

void pixel_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    for (int64_t task = begin; task < end; ++task) gradient_task<decltype(type)>(p, task / p.splits, task % p.splits);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
