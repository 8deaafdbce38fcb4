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

// Both phases of P pairs of outputs from pair i on, all of whose taps lie inside: the even output of a pair reads S0
// pixels, the odd one S1, which begin D later.
template <class T, int S0, int S1, int D, int P>
void inner_pairs(const Line<T>& even, const Line<T>& odd, int64_t i) {
  using A = accumulator_t<T>;
  const PhaseAxis &w0 = even.width, &w1 = odd.width;
  const int64_t pixel = even.channels, start = (i + w0.first) * pixel;
  constexpr int last = P - 1 + (S0 > S1 + D ? S0 : S1 + D);
  T* write_ahead = even.out + i * even.out_step + most(kAhead, P * even.out_step);
  for (int64_t at = 0; at < pixel; at += lanes<A>) {
    prefetch<2 * P * lanes<A> * sizeof(T), true>(write_ahead + at * 2 * P);
    const int64_t c = least(at, pixel - lanes<A>);  // the last vector overlaps the one before
    vec<A> sum[P][2];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p][0] = sum[p][1] = load(even.bias + c);
    for (const SourceRow<T>* row = even.rows; row < even.rows + even.count; ++row) {
      const T* from = row->source + start + c;
      __builtin_prefetch(from + P * pixel);
      const A *weights0 = even.weights + (row->tap + w0.tap) * pixel + c,
              *weights1 = odd.weights + (row->tap + w1.tap) * pixel + c;
      vec<A> weight0[S0], weight1[S1];
#pragma GCC unroll 4
      for (int s = 0; s < S0; ++s) weight0[s] = load(weights0 + s * w0.tap_step * pixel);
#pragma GCC unroll 4
      for (int s = 0; s < S1; ++s) weight1[s] = load(weights1 + s * w1.tap_step * pixel);
#pragma GCC unroll 16
      for (int k = 0; k < last; ++k, from += pixel) {
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
      store_as<T, A>(even.out + (i + p) * even.out_step + c, sum[p][0]);
      store_as<T, A>(odd.out + (i + p) * odd.out_step + c, sum[p][1]);
    }
  }
}

// A whole output row of dgrad at a stride of two: its phases together, so that it is written in order.
template <class T, int S0, int S1, int D>
void pair_line(const Line<T>& even, const Line<T>& odd) {
  constexpr int P = 4;
  const Range a = inner_outputs(even.width, even.in), b = inner_outputs(odd.width, odd.in);
  const int64_t first = most(a.first, b.first), last = least(a.last, b.last);
  if (last - first < P) return line<T, 0, 0>(even), line<T, 0, 0>(odd);
  edges(even, 0, first), edges(odd, 0, first);
  for (int64_t i = first; i < last; i += P) inner_pairs<T, S0, S1, D, P>(even, odd, least(i, last - P));
  edges(even, last, even.width.outputs), edges(odd, last, odd.width.outputs);
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

}  // namespace

void pixel_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PixelDepthwise*>(context);
  const Correlation& c = p.problem;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    const auto pairs = pair_line_for<T>(p);
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
      if (pairs) {
        Line<T> odd = l;
        l.width = p.phase[2][0], l.out = to;
        odd.width = p.phase[2][1], odd.out = to + c.dst_strides.at[2];
        pairs(l, odd);
        continue;  // dgrad has no epilogue
      }
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
