// Depthwise convolution in NHWC, fprop and dgrad: lanes are channels (cpu/depthwise.h). The tensor is read where it
// lies: a tile of outputs walks along the channels of a task, and a source pixel is loaded once for all the taps of a
// filter row that use it. What lies on padding is left out by a mask, the same for all channels of a tile, so that no
// output is at a border.
#include "cpu/kernels/pixels.h"

#include "cpu/kernels/finish.h"
#include "cpu/kernels/stream.h"
#include "cpu/kernels/transpose.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One phase of one output row, channels [first, last) of it. Weights are [vector][tap][lane], a bias after the taps.
// Tiles copy it, because a vector that is stored might lie anywhere: the fields of what is passed by reference would be
// read again after each.
template <class T>
struct Line {
  using A = accumulator_t<T>;
  const SourceRow<T>* rows;
  int64_t count, fresh, first, last, channels, multiplier, in, taps;
  PhaseAxis width;
  const A* weights;
  uint32_t* valid;  // scratch: a mask for each tap of the width
  T* out;
  int64_t out_step;
  A* stage;  // scratch of 2 * kTile pixels: a tile is written past the caches as a whole, or null

  int64_t chunk() const { return last - first; }
};

// A vector of the outputs' pixel i: pixel `at` of the tile.
template <class T>
inline __attribute__((always_inline)) void put_pixel(const Line<T>& l, int64_t i, int at, int64_t c,
                                                     vec<accumulator_t<T>> value) {
  if (l.stage) return store(l.stage + at * l.chunk() + c - l.first, value);
  store_as<T, accumulator_t<T>>(l.out + i * l.out_step + c, value);
}

// What is staged, to `count` pixels of the tensor, `step` elements apart.
template <class T>
void put_tile(const Line<T>& l, T* out, int64_t step, int64_t count) {
  if (!l.stage) return;
  const bool whole = l.chunk() == step;
  const int64_t runs = whole ? 1 : count, each = whole ? count * step : l.chunk();
  for (int64_t i = 0; i < runs; ++i) put_line(out + l.first + i * step, l.stage + i * each, each, true);
}

// The weights of a vector that begins with channel c, and that channel: the last vector overlaps the one before.
template <class T>
inline __attribute__((always_inline)) const accumulator_t<T>* weights_of(const Line<T>& l, int64_t& c) {
  const accumulator_t<T>* weights = l.weights + c * (l.taps + 1);
  c = least(c, l.channels - lanes<accumulator_t<T>>);
  return weights;
}

// Outputs [i, i + count): S taps in consecutive pixels, outputs M pixels apart.
template <class T, int S, int M>
void tile(const Line<T>& line, int64_t i, int64_t count) {
  const Line<T> l = line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, origin = i * M + w.first;
  uint32_t valid = bits(-origin, least((count - 1) * M + S, l.in - origin));
  for (int64_t at = l.first; at < l.last; at += N) {
    int64_t c = at;
    const A* packed = weights_of(l, c);
    if (at * int64_t(sizeof(T)) % 64 == 0) {
      ask_for<kTile * M>(l.rows, l.count, l.fresh, (origin + count * M + S - M) * pixel + c, pixel);
      if (l.fresh && !l.stage)
#pragma GCC unroll 8
        for (int p = 0; p < kTile; ++p) __builtin_prefetch(l.out + (i + count + p) * l.out_step + c, 1);
    }
    vec<A> sum[kTile];
#pragma GCC unroll 8
    for (int p = 0; p < kTile; ++p) sum[p] = load(packed + l.taps * N);
    for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
      const T* from = row->source + origin * pixel + c;
      const A* weights = packed + (row->tap + w.tap) * N;
      vec<A> weight[S];
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) weight[s] = load(weights + s * w.tap_step * N);
      keep_in_register(valid);
#pragma GCC unroll 32
      for (int k = 0; k < (kTile - 1) * M + S; ++k, from += pixel) {
        if (!(valid & 1u << k)) continue;
        const vec<A> value = load_as<A>(from);
#pragma GCC unroll 8
        for (int p = 0; p < kTile; ++p)
          if (k >= p * M && k < p * M + S) sum[p] += weight[k - p * M] * value;
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kTile; ++p)
      if (p < count) put_pixel(l, i + p, p, c, sum[p]);
  }
  put_tile(line, l.out + i * l.out_step, l.out_step, count);
}

// Likewise with any taps, and so without loads to share: two vectors, all of a cache line.
template <class T>
void tile_apart(const Line<T>& line, int64_t i, int64_t count) {
  const Line<T> l = line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  constexpr int P = kTile / 2;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, origin = i * w.mul + w.first, next = origin + count * w.mul;
  for (int64_t t = 0; t < w.taps; ++t) {
    const Range outputs = inside(origin + t * w.apart, w.mul, l.in, count);
    l.valid[t] = bits(outputs.first, outputs.last);
  }
  const int64_t last = l.first + (l.chunk() - 1) / N * N;  // an odd one goes twice
  for (int64_t at = l.first; at < l.last; at += 2 * N) {
    int64_t c[2] = {at, least(at + N, last)};
    const A* const packed[2] = {weights_of(l, c[0]), weights_of(l, c[1])};
    ask_for<P>(l.rows, l.count, l.fresh, (next + (w.taps - 1) * w.apart) * pixel + c[0], pixel);
    vec<A> sum[P][2];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p][0] = load(packed[0] + l.taps * N), sum[p][1] = load(packed[1] + l.taps * N);
    for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
      const T *from0 = row->source + origin * pixel + c[0], *from1 = row->source + origin * pixel + c[1];
      int64_t tap = (row->tap + w.tap) * N;
      for (int64_t t = 0; t < w.taps; ++t, tap += w.tap_step * N) {
        const uint32_t valid = l.valid[t];
        const vec<A> weight0 = load(packed[0] + tap), weight1 = load(packed[1] + tap);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          if (!(valid & 1u << p)) continue;
          const int64_t source = (t * w.apart + p * w.mul) * pixel;
          sum[p][0] += weight0 * load_as<A>(from0 + source);
          sum[p][1] += weight1 * load_as<A>(from1 + source);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      if (p < count) put_pixel(l, i + p, p, c[0], sum[p][0]), put_pixel(l, i + p, p, c[1], sum[p][1]);
  }
  put_tile(line, l.out + i * l.out_step, l.out_step, count);
}

// One channel of one output: where channels are fewer than lanes, or several read one.
template <class T>
void single(const Line<T>& l, int64_t i, int64_t c) {
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const PhaseAxis& w = l.width;
  const Range taps = inside(i * w.mul + w.first, w.apart, l.in, w.taps);
  const int64_t source = c / l.multiplier, pixel = l.channels / l.multiplier;
  int64_t first = c / N * N;
  const A* weights = weights_of(l, first) + c - most(0, first);
  A sum = weights[l.taps * N];
  for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row)
    for (int64_t t = taps.first; t < taps.last; ++t)
      sum += weights[(row->tap + w.tap + t * w.tap_step) * N] *
             widen(row->source[(i * w.mul + w.first + t * w.apart) * pixel + source]);
  l.out[i * l.out_step + c] = narrow<T>(sum);
}

// All outputs of a phase of an output row.
template <class T>
void singles(const Line<T>& l) {
  for (int64_t i = 0; i < l.width.outputs; ++i)
    for (int64_t c = l.first; c < l.last; ++c) single(l, i, c);
}

template <class T, void (*Tile)(const Line<T>&, int64_t, int64_t), int Outputs = kTile>
void line(const Line<T>& l) {
  for_tiles(l.width.outputs, Outputs, [&](int64_t i, int64_t count) { Tile(l, i, count); });
}

template <class T>
void (*line_for(const PixelDepthwise& p, const PhaseAxis& w))(const Line<T>&) {
  if (p.channels < lanes<accumulator_t<T>> || p.multiplier > 1) return singles<T>;
  if (w.apart == 1 && w.mul == 1) {
    if (w.taps == 2) return line<T, tile<T, 2, 1>>;
    if (w.taps == 3) return line<T, tile<T, 3, 1>>;
    if (w.taps == 5) return line<T, tile<T, 5, 1>>;
    if (w.taps == 7) return line<T, tile<T, 7, 1>>;
  }
  if (w.apart == 1 && w.mul == 2) {
    if (w.taps == 3) return line<T, tile<T, 3, 2>>;
    if (w.taps == 5) return line<T, tile<T, 5, 2>>;
    if (w.taps == 7) return line<T, tile<T, 7, 2>>;
  }
  return line<T, tile_apart<T>, kTile / 2>;
}

// Both phases of outputs of dgrad at a stride of two, so that it is written in order: the even output of pair i reads
// S0 pixels from w.first + i on, the odd one S1, which begin D later.
template <class T, int S0, int S1, int D>
void pair_tile(const Line<T>& even_line, const Line<T>& odd_line, int64_t i, int64_t count) {
  const Line<T> even = even_line, odd = odd_line;
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  constexpr int P = kTile / 2, reach = S0 > S1 + D ? S0 : S1 + D;
  const PhaseAxis &w0 = even.width, &w1 = odd.width;
  const int64_t pixel = even.channels, origin = i + w0.first;
  uint32_t valid = bits(-origin, least(count - 1 + reach, even.in - origin));
  const int64_t odds = w1.outputs - i;
  for (int64_t at = even.first; at < even.last; at += N) {
    int64_t c = at;
    const A* packed = weights_of(even, c);
    if (at * int64_t(sizeof(T)) % 64 == 0)
      ask_for<P>(even.rows, even.count, even.fresh, (origin + count + reach - 1) * pixel + c, pixel);
    if (at * int64_t(sizeof(T)) % 64 == 0 && even.fresh && !even.stage)
#pragma GCC unroll 16
      for (int p = 0; p < 2 * P; ++p) __builtin_prefetch(even.out + (i + count) * even.out_step + p * pixel + c, 1);
    vec<A> sum[P][2];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p][0] = sum[p][1] = load(packed + even.taps * N);
    for (const SourceRow<T>* row = even.rows; row < even.rows + even.count; ++row) {
      const T* from = row->source + origin * pixel + c;
      const A *weights0 = packed + (row->tap + w0.tap) * N, *weights1 = packed + (row->tap + w1.tap) * N;
      vec<A> weight0[S0], weight1[S1];
#pragma GCC unroll 4
      for (int s = 0; s < S0; ++s) weight0[s] = load(weights0 + s * w0.tap_step * N);
#pragma GCC unroll 4
      for (int s = 0; s < S1; ++s) weight1[s] = load(weights1 + s * w1.tap_step * N);
      keep_in_register(valid);
#pragma GCC unroll 16
      for (int k = 0; k < P - 1 + reach; ++k, from += pixel) {
        if (!(valid & 1u << k)) continue;
        const vec<A> value = load_as<A>(from);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          if (k >= p && k < p + S0) sum[p][0] += weight0[k - p] * value;
          if (k >= p + D && k < p + D + S1) sum[p][1] += weight1[k - p - D] * value;
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (p < count) put_pixel(even, i + p, 2 * p, c, sum[p][0]);
      if (p < count && p < odds) put_pixel(odd, i + p, 2 * p + 1, c, sum[p][1]);
    }
  }
  put_tile(even_line, even.out + i * even.out_step, even.channels, count + least(count, odds));
}

template <class T, int S0, int S1, int D>
void pair_line(const Line<T>& even, const Line<T>& odd) {
  for_tiles(even.width.outputs, kTile / 2,
            [&](int64_t i, int64_t count) { pair_tile<T, S0, S1, D>(even, odd, i, count); });
}

template <class T>
void (*pair_line_for(const PixelDepthwise& p))(const Line<T>&, const Line<T>&) {
  const AxisMap& width = p.problem.axis[2];
  if (width.mul != 1 || width.div != 2 || p.multiplier > 1 || p.channels < lanes<accumulator_t<T>>) return nullptr;
  const PhaseAxis &even = p.phase[2][0], &odd = p.phase[2][1];
  if (even.apart != 1 || odd.apart != 1) return nullptr;
  const int64_t apart = odd.first - even.first;
  if (even.taps == 1 && odd.taps == 2 && apart == 0) return pair_line<T, 1, 2, 0>;
  if (even.taps == 3 && odd.taps == 2 && apart == 1) return pair_line<T, 3, 2, 1>;
  return nullptr;
}

template <class T>
void depthwise_line(const PixelDepthwise& p, Line<T> l, T* to) {
  const Correlation& c = p.problem;
  if (const auto pairs = pair_line_for<T>(p)) {
    Line<T> odd = l;
    l.width = p.phase[2][0], l.out = to;
    odd.width = p.phase[2][1], odd.out = to + c.dst_strides.at[2];
    return pairs(l, odd);  // dgrad has no epilogue
  }
  for (int64_t f = 0; f < c.axis[2].div; ++f) {
    l.width = p.phase[2][f], l.out = to + f * c.dst_strides.at[2];
    if (l.width.outputs > 0) line_for<T>(p, l.width)(l);
  }
  if (l.last - l.first == p.channels) return finish_in_place(c, to, c.axis[2].out * p.channels);
  for (int64_t i = 0; i < c.axis[2].out; ++i) finish_in_place(c, to + i * p.channels + l.first, l.last - l.first);
}

}  // namespace

void pixel_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelDepthwise*>(context);
  const Correlation& c = p.problem;
  const int64_t rows = c.axis[0].taps * c.axis[1].taps, slices = c.axis[0].out, height = c.axis[1].out;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const int64_t most_channels = p.channels - p.chunks.first(p.chunks.count - 1), stage = 2 * kTile * most_channels;
    A* const staged =
        static_cast<A*>(scratch(size_t(p.stream ? stage : 0) * sizeof(A) + size_t(rows) * sizeof(SourceRow<T>) +
                                size_t(c.axis[2].taps) * sizeof(uint32_t)));
    auto* memory = reinterpret_cast<SourceRow<T>*>(staged + (p.stream ? stage : 0));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t h = index % height, d = index / height % slices, chunk = index / height / slices % p.chunks.count;
      const int64_t n = index / height / slices / p.chunks.count;
      Line<T> l;
      l.rows = memory, l.valid = reinterpret_cast<uint32_t*>(memory + rows);
      l.fresh = p.ahead ? c.axis[1].mul : 0, l.channels = p.channels, l.multiplier = p.multiplier, l.in = c.axis[2].in;
      l.first = p.chunks.first(chunk), l.last = p.chunks.last(chunk, p.channels);
      l.count =
          source_rows(c.axis, p.phase, d, h, static_cast<const T*>(c.src) + n * c.src_strides.n, c.src_strides, memory);
      l.weights = static_cast<const A*>(p.packed), l.taps = p.taps, l.stage = p.stream ? staged : nullptr;
      l.out_step = c.axis[2].div * c.dst_strides.at[2];
      depthwise_line(p, l,
                     static_cast<T*>(c.dst) + n * c.dst_strides.n + d * c.dst_strides.at[0] + h * c.dst_strides.at[1]);
    }
    if (p.stream) end_stream();
  });
}

// Tasks are kBlock channels, whatever the vectors.
void pixel_pack(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelDepthwise*>(context);
  const Correlation& c = p.problem;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    constexpr int64_t N = lanes<A>;
    for (int64_t at = begin * kBlock; at < least(p.channels, end * kBlock); at += N) {
      A* to = static_cast<A*>(p.packed) + at * (p.taps + 1);
      const int64_t first = most(0, least(at, p.channels - N));
      const int64_t count = least(N, p.channels);
      read_lanes(static_cast<const T*>(c.w) + first * p.taps, p.taps, count, p.taps,
                 [&](int64_t t) { return to + t * N; });
      for (int64_t lane = 0; lane < N; ++lane)
        to[p.taps * N + lane] = c.bias && lane < count ? widen(static_cast<const T*>(c.bias)[first + lane]) : 0;
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
