// Depthwise convolution in NHWC, wgrad: lanes are channels (cpu/depthwise.h), so nothing is summed across lanes. As in
// the forward pass a block of pixels walks along the channels of a task; the sums of a filter row stay in registers for
// a block, then join those of all its taps, which stay in L1.
#include "cpu/kernels/pixels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One output row, channels [first, last) of it: `sums` are [tap][last - first].
template <class T>
struct Line {
  using A = accumulator_t<T>;
  const SourceRow<T>* rows;
  int64_t count, fresh, channels, multiplier, in, first, last;
  PhaseAxis width;
  const T* gy;
  A* sums;
};

// The channels of one vector: those before `mask` belong to the vector before.
template <class A>
struct Lanes {
  int64_t channel;
  mask_of<A> mask;
};
template <class A>
inline __attribute__((always_inline)) Lanes<A> lanes_at(int64_t at, int64_t last) {
  const int64_t c = least(at, last - lanes<A>);
  return {c, ~first_lanes<A>(at - c)};
}

template <class A>
inline __attribute__((always_inline)) void add(A* to, vec<A> value, mask_of<A> mask) {
  store(to, load(to) + (vec<A>)((mask_of<A>)value & mask));
}

// What outputs from output i on will read of channel `channel`: the rows that no output row before this one has read.
template <int P, int M, class T>
inline __attribute__((always_inline)) void ask_for(const Line<T>& l, int64_t i, int64_t channel) {
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) prefetch<64, false>(l.gy + (i + p) * l.channels + channel);
  for (int64_t r = most(0, l.count - l.fresh); r < l.count; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P * M; ++p)
      prefetch<64, false>(l.rows[r].source + (i * l.width.mul + l.width.first + p) * l.channels + channel);
}

// P outputs from output i on, all of whose taps lie inside the source: S taps in consecutive pixels (any, if S is 0),
// outputs M pixels apart.
template <class T, int S, int M, int P>
void inner(const Line<T>& l, int64_t i) {
  using A = accumulator_t<T>;
  const PhaseAxis& w = l.width;
  const int64_t pixel = l.channels, each = l.last - l.first;
  const int64_t start = (i * w.mul + w.first) * pixel;
  for (int64_t at = l.first; at < l.last; at += lanes<A>) {
    const Lanes<A> now = lanes_at<A>(at, l.last);
    if (at * int64_t(sizeof(T)) % 64 == 0) ask_for<P, (M ? M : 1)>(l, i + most(P, kAhead / pixel), at);
    vec<A> g[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) g[p] = load_as<A>(l.gy + (i + p) * pixel + now.channel);
    for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row) {
      const T* from = row->source + start + now.channel;
      A* sums = l.sums + (row->tap + w.tap) * each + now.channel - l.first;
      if constexpr (S == 0) {
        for (int64_t t = 0; t < w.taps; ++t, from += w.apart * pixel, sums += each) {
          vec<A> sum{};
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p) sum += g[p] * load_as<A>(from + p * w.mul * pixel);
          add(sums, sum, now.mask);
        }
      } else {
        vec<A> sum[S];
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) sum[s] = vec<A>{};
#pragma GCC unroll 32
        for (int k = 0; k < (P - 1) * M + S; ++k, from += pixel) {
          const vec<A> value = load_as<A>(from);
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p)
            if (k >= p * M && k < p * M + S) sum[k - p * M] += g[p] * value;
        }
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) add(sums + s * each, sum[s], now.mask);
      }
    }
  }
}

// Sums of one tap over `outputs`, V vectors of channels: x is its source at output 0.
template <class T, int V>
inline __attribute__((always_inline)) void edge(const Line<T>& l, const Range& outputs, const T* x,
                                                accumulator_t<T>* sums, const Lanes<accumulator_t<T>>& now) {
  using A = accumulator_t<T>;
  vec<A> sum[V] = {};
  const T* g = l.gy + outputs.first * l.channels + now.channel;
  const int64_t step = l.width.mul * l.channels;
  x += outputs.first * step + now.channel;
  for (int64_t i = outputs.first; i < outputs.last; ++i, g += l.channels, x += step)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] += load_as<A>(g + v * lanes<A>) * load_as<A>(x + v * lanes<A>);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) add(sums + now.channel - l.first + v * lanes<A>, sum[v], now.mask);
}

// Likewise one channel: where channels are fewer than lanes, or several read one.
template <class T>
void single(const Line<T>& l, const Range& outputs, const T* x, accumulator_t<T>* sums, int64_t c) {
  const int64_t source = c / l.multiplier, pixel = l.channels / l.multiplier;
  accumulator_t<T> sum = 0;
  for (int64_t i = outputs.first; i < outputs.last; ++i)
    sum += widen(l.gy[i * l.channels + c]) * widen(x[i * l.width.mul * pixel + source]);
  sums[c - l.first] += sum;
}

// Outputs [begin, end), whatever of their taps is inside.
template <class T>
void edges(const Line<T>& l, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const PhaseAxis& w = l.width;
  const int64_t each = l.last - l.first, pixel = l.channels / l.multiplier;
  for (const SourceRow<T>* row = l.rows; row < l.rows + l.count; ++row)
    for (int64_t t = 0; t < w.taps; ++t) {
      const Range all = inside(w.first + t * w.apart, w.mul, l.in, w.outputs);
      const Range outputs{most(all.first, begin), least(all.last, end)};
      if (outputs.first >= outputs.last) continue;
      const T* x = row->source + (w.first + t * w.apart) * pixel;
      A* sums = l.sums + (row->tap + w.tap + t) * each;
      int64_t c = l.first;
      if (l.multiplier > 1 || each < lanes<A>)
        for (; c < l.last; ++c) single(l, outputs, x, sums, c);
      for (; c + 4 * lanes<A> <= l.last; c += 4 * lanes<A>) edge<T, 4>(l, outputs, x, sums, lanes_at<A>(c, l.last));
      for (; c < l.last; c += lanes<A>) edge<T, 1>(l, outputs, x, sums, lanes_at<A>(c, l.last));
    }
}

template <class T, int S, int M>
void line(const Line<T>& l) {
  const Range middle = inner_outputs(l.width, l.in);
  int64_t i = middle.first;
  if (l.last - l.first < lanes<accumulator_t<T>> || l.multiplier > 1 || middle.last - middle.first < 4)
    return edges(l, 0, l.width.outputs);
  edges(l, 0, i);
  for (; middle.last - i >= 8; i += 8) inner<T, S, M, 8>(l, i);
  for (; middle.last - i >= 4; i += 4) inner<T, S, M, 4>(l, i);
  edges(l, i, l.width.outputs);
}

template <class T>
void (*line_for(const PhaseAxis& w))(const Line<T>&) {
  if (w.apart == 1 && w.mul == 1) {
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

constexpr int64_t kPixels = 256;  // outputs that are summed before the sums join the totals: short sums round less

template <class T>
void gradient_task(const PixelGradient& p, int64_t group, int64_t split) {
  using A = accumulator_t<T>;
  const WeightGradient& c = p.problem;
  Line<T> l;
  l.first = group * p.group, l.last = least(p.channels, l.first + p.group);
  const int64_t elements = p.taps * (l.last - l.first), slices = c.axis[0].out, height = c.axis[1].out;
  A* totals = static_cast<A*>(
      scratch(size_t(2 * elements) * sizeof(A) + size_t(c.axis[0].taps * c.axis[1].taps) * sizeof(SourceRow<T>)));
  l.sums = totals + elements;
  auto* rows = reinterpret_cast<SourceRow<T>*>(l.sums + elements);
  for (int64_t i = 0; i < 2 * elements; ++i) totals[i] = 0;
  l.rows = rows, l.fresh = c.axis[1].mul, l.channels = p.channels, l.multiplier = p.multiplier;
  l.in = c.axis[2].in, l.width = p.phase[2][0];
  const auto run = line_for<T>(l.width);
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
  for (int64_t channel = l.first; channel < l.last; ++channel)
    for (int64_t t = 0; t < p.taps; ++t) {
      const A sum = totals[t * (l.last - l.first) + channel - l.first];
      if (p.splits == 1) {
        static_cast<T*>(c.gw)[channel * p.taps + t] = narrow<T>(sum);
      } else {
        static_cast<A*>(c.partial)[(split * p.channels + channel) * p.taps + t] = sum;
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
