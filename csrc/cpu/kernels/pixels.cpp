// Depthwise convolution in NHWC, fprop and dgrad: lanes are channels (cpu/depthwise.h). The tensor is read where it
// lies: a block of pixels walks along the channels, so that memory is read and written in order; a source pixel is
// loaded once for all the taps of a filter row that use it; taps on padding are left out.
#include "cpu/kernels/pixels.h"

#include "cpu/kernels/finish.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One phase of one output row. Weights are [tap][channel], the bias is [channel].
template <class T>
struct Line {
  using A = accumulator_t<T>;
  const SourceRow<T>* rows;
  int64_t count, fresh, channels, multiplier, in;
  PhaseAxis width;
  const A *weights, *bias;
  T* out;
  int64_t out_step;
};

// P outputs from output i on, all of whose taps lie inside the source: S taps in consecutive pixels (any taps, if S is
// 0), outputs M pixels apart.
template <class T, int S, int M, int P>
void inner(const Line<T>& l, int64_t i) {
  using A = accumulator_t<T>;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, tap_step = w.tap_step * pixel;
  const int64_t start = (i * w.mul + w.first) * pixel;
  // The rows that this output row is the first to read, and the output, are asked for in order.
  const int64_t read_ahead = start + most(kAhead, P * w.mul * pixel);
  T* write_ahead = l.out + i * l.out_step + most(kAhead, P * l.out_step);
  constexpr int step = M ? M : 1;
  for (int64_t at = 0; at < l.channels; at += lanes<A>) {
    for (int64_t r = most(0, l.count - l.fresh); r < l.count; ++r)
      prefetch<P * step * lanes<A> * sizeof(T), false>(l.rows[r].source + read_ahead + at * P * step);
    prefetch<P * lanes<A> * sizeof(T), true>(write_ahead + at * P);
    const int64_t c = least(at, l.channels - lanes<A>);  // the last vector overlaps the one before
    vec<A> sum[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = load(l.bias + c);
    for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
      const T* from = row->source + start + c;
      const A* weights = l.weights + (row->tap + w.tap) * pixel + c;
      if constexpr (S == 0) {
        for (int64_t t = 0; t < w.taps; ++t, from += w.apart * pixel, weights += tap_step) {
          const vec<A> weight = load(weights);
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p) sum[p] += weight * load_as<A>(from + p * w.mul * pixel);
        }
      } else {
        vec<A> weight[S];
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) weight[s] = load(weights + s * tap_step);
#pragma GCC unroll 32
        for (int k = 0; k < (P - 1) * M + S; ++k, from += pixel) {
          const vec<A> value = load_as<A>(from);
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p)
            if (k >= p * M && k < p * M + S) sum[p] += weight[k - p * M] * value;
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) store_as<T, A>(l.out + (i + p) * l.out_step + c, sum[p]);
  }
}

// One output through `taps` of each filter row: V vectors of channels from channel c on.
template <class T, int V>
void edge(const Line<T>& l, int64_t i, const Range& taps, int64_t c) {
  using A = accumulator_t<T>;
  const PhaseAxis& w = l.width;
  vec<A> sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = load(l.bias + c + v * lanes<A>);
  for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row)
    for (int64_t t = taps.first; t < taps.last; ++t) {
      const T* from = row->source + (i * w.mul + w.first + t * w.apart) * l.channels + c;
      const A* weights = l.weights + (row->tap + w.tap + t * w.tap_step) * l.channels + c;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[v] += load(weights + v * lanes<A>) * load_as<A>(from + v * lanes<A>);
    }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store_as<T, A>(l.out + i * l.out_step + c + v * lanes<A>, sum[v]);
}

// Likewise one channel: where channels are fewer than lanes, or several read one.
template <class T>
void single(const Line<T>& l, int64_t i, const Range& taps, int64_t c) {
  const PhaseAxis& w = l.width;
  const int64_t source = c / l.multiplier, pixel = l.channels / l.multiplier;
  accumulator_t<T> sum = l.bias[c];
  for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row)
    for (int64_t t = taps.first; t < taps.last; ++t)
      sum += l.weights[(row->tap + w.tap + t * w.tap_step) * l.channels + c] *
             widen(row->source[(i * w.mul + w.first + t * w.apart) * pixel + source]);
  l.out[i * l.out_step + c] = narrow<T>(sum);
}

template <class T>
void edges(const Line<T>& l, int64_t begin, int64_t end) {
  constexpr int64_t by = lanes<accumulator_t<T>>;
  for (int64_t i = begin; i < end; ++i) {
    const Range taps = inside(i * l.width.mul + l.width.first, l.width.apart, l.in, l.width.taps);
    int64_t c = 0;
    if (l.multiplier > 1 || l.channels < by) {
      for (; c < l.channels; ++c) single(l, i, taps, c);
    }
    for (; c + 4 * by <= l.channels; c += 4 * by) edge<T, 4>(l, i, taps, c);
    for (; c < l.channels; c += by) edge<T, 1>(l, i, taps, least(c, l.channels - by));
  }
}

// A whole phase of an output row.
template <class T, int S, int M>
void line(const Line<T>& l) {
  Range middle = inner_outputs(l.width, l.in);
  if (middle.last - middle.first < 4 || l.channels < lanes<accumulator_t<T>> || l.multiplier > 1) middle = {0, 0};
  edges(l, 0, middle.first);
  for (int64_t i = middle.first, left; (left = middle.last - i) > 0;) {
    // What is left may overlap what has been done.
    if (left > 4 && middle.last - middle.first >= 8) {
      inner<T, S, M, 8>(l, left < 8 ? middle.last - 8 : i), i += 8;
    } else {
      inner<T, S, M, 4>(l, left < 4 ? middle.last - 4 : i), i += 4;
    }
  }
  edges(l, middle.last, l.width.outputs);
}

template <class T>
void (*line_for(const PhaseAxis& w))(const Line<T>&) {
  if (w.apart == 1 && w.mul == 1) {
    if (w.taps == 2) return line<T, 2, 1>;
    if (w.taps == 3) return line<T, 3, 1>;
    if (w.taps == 5) return line<T, 5, 1>;
    if (w.taps == 7) return line<T, 7, 1>;
  }
  if (w.apart == 1 && w.mul == 2) {
    if (w.taps == 3) return line<T, 3, 2>;
    if (w.taps == 5) return line<T, 5, 2>;
    if (w.taps == 7) return line<T, 7, 2>;
  }
  return line<T, 0, 0>;
}

}  // namespace

void pixel_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelDepthwise*>(context);
  const Correlation& c = p.problem;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    auto* rows = static_cast<SourceRow<T>*>(scratch(size_t(c.axis[0].taps * c.axis[1].taps) * sizeof(SourceRow<T>)));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t h = index % c.axis[1].out, d = index / c.axis[1].out % c.axis[0].out;
      const int64_t n = index / c.axis[1].out / c.axis[0].out;
      Line<T> l;
      l.rows = rows, l.fresh = c.axis[1].mul, l.channels = p.channels, l.multiplier = p.multiplier, l.in = c.axis[2].in;
      l.count =
          source_rows(c.axis, p.phase, d, h, static_cast<const T*>(c.src) + n * c.src_strides.n, c.src_strides, rows);
      l.weights = static_cast<const accumulator_t<T>*>(p.packed), l.bias = l.weights + p.taps * p.channels;
      l.out_step = c.axis[2].div * c.dst_strides.at[2];
      T* to = static_cast<T*>(c.dst) + n * c.dst_strides.n + d * c.dst_strides.at[0] + h * c.dst_strides.at[1];
      for (int64_t f = 0; f < c.axis[2].div; ++f) {
        l.width = p.phase[2][f], l.out = to + f * c.dst_strides.at[2];
        if (l.width.outputs > 0) line_for<T>(l.width)(l);
      }
      finish_in_place(c, to, c.axis[2].out * p.channels);
    }
  });
}

// Tasks are channels.
void pixel_pack(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelDepthwise*>(context);
  const Correlation& c = p.problem;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    auto* to = static_cast<accumulator_t<T>*>(p.packed);
    for (int64_t channel = begin; channel < end; ++channel) {
      const T* filter = static_cast<const T*>(c.w) + channel * p.taps;
      for (int64_t t = 0; t < p.taps; ++t) to[t * p.channels + channel] = widen(filter[t]);
      to[p.taps * p.channels + channel] = c.bias ? widen(static_cast<const T*>(c.bias)[channel]) : 0;
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
