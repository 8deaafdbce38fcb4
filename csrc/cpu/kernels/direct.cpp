// Direct convolution for any geometry, layout and dtype: the path for shapes that no specialised kernel takes. A row of
// accumulators, one filter tap and source channel at a time; in NCHW at stride 1 the inner loop is a vectorised axpy.
#include "cpu/kernels/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// First and one past the last output of `axis` that tap t can serve, and the distance between such outputs: with
// div > 1 (dgrad) every div-th output only.
struct Span {
  int64_t begin, end, by, source;  // `source` of output `begin`; it moves by `mul` for each `by` outputs
};

Span tap_span(const AxisMap& axis, int64_t t) {
  // o*mul + add + t*step must be in [0, (in - 1)*div] and, if div > 1 (then mul == 1), divisible by div.
  const int64_t shift = axis.add + t * axis.step, top = (axis.in - 1) * axis.div - shift;
  int64_t begin = shift >= 0 ? 0 : (-shift + axis.mul - 1) / axis.mul;
  if (axis.div > 1) {
    const int64_t rest = (begin + shift) % axis.div;
    if (rest) begin += axis.div - rest;
  }
  const int64_t end = top < 0 ? 0 : least(axis.out, top / axis.mul + 1);
  return {begin, end, axis.div, (begin * axis.mul + shift) / axis.div};
}

// `total` and `sum` each hold a row of accumulators: `sum` runs over a few dozen products, then goes into `total`, so
// that the rounding error grows with the square root of their counts.
template <class T>
void correlate_row(const Correlation& p, int64_t row, accumulator_t<T>* __restrict total,
                   accumulator_t<T>* __restrict sum, const Span* spans) {
  using A = accumulator_t<T>;
  const AxisMap &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
  const int64_t h = row % height.out, d = row / height.out % depth.out, channel = row / (height.out * depth.out);
  const int64_t kd = channel % p.dst_channels, g = channel / p.dst_channels % p.groups;
  const int64_t n = channel / (p.dst_channels * p.groups), k = g * p.dst_channels + kd;
  const T* src = static_cast<const T*>(p.src) + n * p.src_strides.n + g * p.src_channels * p.src_strides.c;
  const T* w = static_cast<const T*>(p.w) + g * p.w_group + kd * p.w_dst;
  const A bias = p.bias ? widen(static_cast<const T*>(p.bias)[k]) : A(0);
  for (int64_t o = 0; o < width.out; ++o) total[o] = bias, sum[o] = 0;
  const int64_t run = most(1, 32 / (depth.taps * height.taps * width.taps));
  const int64_t move = width.mul * p.src_strides.at[2];
  for (int64_t cs = 0; cs < p.src_channels; ++cs) {
    for (int64_t t = 0; t < depth.taps; ++t) {
      const int64_t id = depth.source(d, t);
      if (id < 0) continue;
      for (int64_t r = 0; r < height.taps; ++r) {
        const int64_t ih = height.source(h, r);
        if (ih < 0) continue;
        const T* line = src + cs * p.src_strides.c + id * p.src_strides.at[0] + ih * p.src_strides.at[1];
        const T* taps = w + cs * p.w_src + t * p.w_tap[0] + r * p.w_tap[1];
        for (int64_t s = 0; s < width.taps; ++s) {
          const Span span = spans[s];
          const A weight = widen(taps[s * p.w_tap[2]]);
          const T* __restrict from = line + span.source * p.src_strides.at[2];
          if (span.by == 1 && move == 1) {
            for (int64_t o = span.begin; o < span.end; ++o) sum[o] += weight * widen(from[o - span.begin]);
          } else {
            for (int64_t o = span.begin; o < span.end; o += span.by, from += move) sum[o] += weight * widen(*from);
          }
        }
      }
    }
    if ((cs + 1) % run == 0 || cs + 1 == p.src_channels) {
      for (int64_t o = 0; o < width.out; ++o) total[o] += sum[o], sum[o] = 0;
    }
  }
  T* dst = static_cast<T*>(p.dst) + n * p.dst_strides.n + k * p.dst_strides.c + d * p.dst_strides.at[0] +
           h * p.dst_strides.at[1];
  if (p.residual) {
    const T* more = static_cast<const T*>(p.residual) + (dst - static_cast<const T*>(p.dst));
    for (int64_t o = 0; o < width.out; ++o) total[o] += widen(more[o * p.dst_strides.at[2]]);
  }
  activate_piecewise(total, width.out, p.activation, A(p.slope));
  for (int64_t o = 0; o < width.out; ++o) dst[o * p.dst_strides.at[2]] = narrow<T>(total[o]);
}

template <class T>
void correlate(const Correlation& p, int64_t begin, int64_t end) {
  const AxisMap& width = p.axis[2];
  const size_t span_bytes = size_t(width.taps) * sizeof(Span);
  char* memory = static_cast<char*>(scratch(span_bytes + 2 * size_t(width.out) * sizeof(accumulator_t<T>)));
  Span* spans = reinterpret_cast<Span*>(memory);
  auto* total = reinterpret_cast<accumulator_t<T>*>(memory + span_bytes);
  for (int64_t s = 0; s < width.taps; ++s) spans[s] = tap_span(width, s);
  for (int64_t row = begin; row < end; ++row) correlate_row<T>(p, row, total, total + width.out, spans);
}

// Sum of count products, in eight interleaved partial sums.
template <class T>
accumulator_t<T> dot(const T* a, int64_t a_by, const T* b, int64_t b_by, int64_t count) {
  accumulator_t<T> lanes[8] = {};
  int64_t i = 0;
  if (a_by == 1 && b_by == 1) {
    for (; i + 8 <= count; i += 8)
      for (int lane = 0; lane < 8; ++lane) lanes[lane] += widen(a[i + lane]) * widen(b[i + lane]);
  }
  for (; i < count; ++i) lanes[i % 8] += widen(a[i * a_by]) * widen(b[i * b_by]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

template <class T>
accumulator_t<T> filter_tap_gradient(const WeightGradient& p, const T* x, const T* gy, int64_t t, int64_t r,
                                     const Span& span) {
  using A = accumulator_t<T>;
  A total = 0;
  for (int64_t n = 0; n < p.n; ++n) {
    A sample = 0;
    for (int64_t d = 0; d < p.axis[0].out; ++d) {
      const int64_t id = p.axis[0].source(d, t);
      if (id < 0) continue;
      for (int64_t h = 0; h < p.axis[1].out; ++h) {
        const int64_t ih = p.axis[1].source(h, r);
        if (ih < 0) continue;
        const T* from = x + n * p.x_strides.n + id * p.x_strides.at[0] + ih * p.x_strides.at[1];
        const T* line = gy + n * p.gy_strides.n + d * p.gy_strides.at[0] + h * p.gy_strides.at[1];
        sample += dot<T>(from + span.source * p.x_strides.at[2], p.axis[2].mul * p.x_strides.at[2],
                         line + span.begin * p.gy_strides.at[2], p.gy_strides.at[2], span.end - span.begin);
      }
    }
    total += sample;
  }
  return total;
}

template <class T>
void weight_gradient(const WeightGradient& p, int64_t begin, int64_t end) {
  for (int64_t filter = begin; filter < end; ++filter) {
    const int64_t c = filter % p.c, k = filter / p.c % p.k, g = filter / (p.c * p.k);
    const T* x = static_cast<const T*>(p.x) + (g * p.c + c) * p.x_strides.c;
    const T* gy = static_cast<const T*>(p.gy) + (g * p.k + k) * p.gy_strides.c;
    T* gw = static_cast<T*>(p.gw) + g * p.w_group + k * p.w_k + c * p.w_c;
    for (int64_t s = 0; s < p.axis[2].taps; ++s) {
      const Span span = tap_span(p.axis[2], s);
      for (int64_t t = 0; t < p.axis[0].taps; ++t)
        for (int64_t r = 0; r < p.axis[1].taps; ++r)
          gw[t * p.w_tap[0] + r * p.w_tap[1] + s * p.w_tap[2]] =
              narrow<T>(filter_tap_gradient<T>(p, x, gy, t, r, span));
    }
  }
}

// total[i] += sum of rows[j * pitch + i] over j, in runs of kRun rows so that rounding errors stay those of short sums.
constexpr int64_t kRun = 64;
template <class T, class A>
void add_rows(const T* rows, int64_t count, int64_t pitch, int64_t width, A* total, A* run) {
  for (int64_t first = 0; first < count; first += kRun) {
    const int64_t last = least(count, first + kRun);
    for (int64_t i = 0; i < width; ++i) run[i] = 0;
    for (int64_t j = first; j < last; ++j)
      for (int64_t i = 0; i < width; ++i) run[i] += widen(rows[j * pitch + i]);
    for (int64_t i = 0; i < width; ++i) total[i] += run[i];
  }
}

// Channels [begin, end). NHWC reads pixels; with few channels several pixels at a time, as if they were more channels.
// NCHW reads each plane as rows of kLanes elements.
template <class T>
void sum_bias(const BiasGradient& p, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  constexpr int64_t kLanes = 32;
  const T* gy = static_cast<const T*>(p.gy);
  T* gb = static_cast<T*>(p.gb);
  if (p.layout == Layout::nchw) {
    for (int64_t k = begin; k < end; ++k) {
      A total[kLanes] = {}, run[kLanes];
      for (int64_t n = 0; n < p.n; ++n) {
        const T* plane = gy + (n * p.k + k) * p.plane;
        const int64_t rows = p.plane / kLanes;
        add_rows(plane, rows, kLanes, kLanes, total, run);
        for (int64_t i = rows * kLanes; i < p.plane; ++i) total[i - rows * kLanes] += widen(plane[i]);
      }
      for (int64_t half = kLanes / 2; half; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) total[lane] += total[lane + half];
      gb[k] = narrow<T>(total[0]);
    }
    return;
  }
  const int64_t count = end - begin, fold = p.k == count && count < kLanes ? kLanes / count : 1, width = count * fold;
  const int64_t pixels = p.n * p.plane, steps = pixels / fold;
  A* total = static_cast<A*>(scratch(size_t(2 * width) * sizeof(A)));
  for (int64_t i = 0; i < width; ++i) total[i] = 0;
  add_rows(gy + begin, steps, p.k * fold, width, total, total + width);
  for (int64_t pixel = steps * fold; pixel < pixels; ++pixel)
    for (int64_t i = 0; i < count; ++i) total[i] += widen(gy[pixel * p.k + begin + i]);
  for (int64_t i = 0; i < count; ++i) {
    A sum = total[i];
    for (int64_t j = 1; j < fold; ++j) sum += total[j * count + i];
    gb[begin + i] = narrow<T>(sum);
  }
}

}  // namespace

void direct_correlation(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const Correlation*>(context);
  visit_dtype(p.dtype, [&](auto type) { correlate<decltype(type)>(p, begin, end); });
}

void direct_weight_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const WeightGradient*>(context);
  visit_dtype(p.dtype, [&](auto type) { weight_gradient<decltype(type)>(p, begin, end); });
}

void bias_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const BiasGradient*>(context);
  visit_dtype(p.dtype, [&](auto type) { sum_bias<decltype(type)>(p, begin, end); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
