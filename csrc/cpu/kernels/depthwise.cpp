// Depthwise convolution, fprop and dgrad, on bands (cpu/band.h): lanes are channels, eight pixels at a time stay in
// registers, and a source pixel is loaded once for all the taps of a filter row that use it.
#include "cpu/kernels/band_rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// P outputs of one phase, one vector of channels: `out` pixels are out_step elements apart. Taps come in runs of S in
// consecutive pixels, the P outputs read M pixels apart; weights are [tap][kBlock].
template <class A, int S, int M, int P>
void outputs(const A* source, int64_t step, const BandTap* taps, int64_t count, const A* weights, vec<A> bias, A* out,
             int64_t out_step) {
  vec<A> sum[P];
  for (int p = 0; p < P; ++p) sum[p] = bias;
  for (int64_t t = 0; t < count; t += S, weights += S * kBlock) {
    const A* from = source + taps[t].offset;
    if constexpr (S == 1) {
      const vec<A> weight = load(weights);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p] += weight * load(from + p * step);
    } else {
      vec<A> weight[S];
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) weight[s] = load(weights + s * kBlock);
#pragma GCC unroll 32
      for (int i = 0; i < (P - 1) * M + S; ++i) {
        const vec<A> value = load(from + i * kBlock);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p)
          if (i >= p * M && i < p * M + S) sum[p] += weight[i - p * M] * value;
      }
    }
  }
  for (int p = 0; p < P; ++p) store(out + p * out_step, sum[p]);
}

// A whole phase of an output row; may overrun it by kOverrun - 1 pixels.
template <class A, int S, int M>
void phase_row(const A* source, int64_t step, const BandTap* taps, int64_t count, const A* weights, const A* bias,
               A* out, int64_t out_step, int64_t length) {
  for (int64_t lane = 0; lane < kBlock; lane += lanes<A>) {
    const A* from = source + lane;
    A* to = out + lane;
    const vec<A> start = load(bias + lane);
    int64_t left = length;
    for (; left > 4; left -= 8, from += 8 * step, to += 8 * out_step)
      outputs<A, S, M, 8>(from, step, taps, count, weights + lane, start, to, out_step);
    if (left > 0) outputs<A, S, M, 4>(from, step, taps, count, weights + lane, start, to, out_step);
  }
}

template <class A>
using PhaseRow = void (*)(const A*, int64_t, const BandTap*, int64_t, const A*, const A*, A*, int64_t, int64_t);

template <class A>
PhaseRow<A> phase_row_for(int64_t run, int64_t mul) {
  if (run == 2) return mul == 1 ? phase_row<A, 2, 1> : phase_row<A, 2, 2>;
  if (run == 3) return mul == 1 ? phase_row<A, 3, 1> : phase_row<A, 3, 2>;
  if (run == 5) return mul == 1 ? phase_row<A, 5, 1> : phase_row<A, 5, 2>;
  if (run == 7) return mul == 1 ? phase_row<A, 7, 1> : phase_row<A, 7, 2>;
  return phase_row<A, 1, 1>;
}

template <class A>
struct Memory {
  A *source, *weights, *bias, *line, *temporary;
};

template <class T>
void depthwise_band(const Depthwise& p, const Place& at, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Band& b = *p.band;
  const Correlation& c = p.problem;
  const Lanes from = lanes_of(p.planes, c.src_strides, at.block, true);
  const Lanes to = lanes_of(p.planes, c.dst_strides, at.block, false);
  fill_band(b, p.planes, m.source, static_cast<const T*>(c.src), from, c.src_strides, at.d, at.band, A(0), m.temporary);
  const T* filters[kBlock];
  for (int64_t lane = 0; lane < to.count; ++lane) {
    filters[lane] = static_cast<const T*>(c.w) + to.channel[lane] * c.w_group;
    if (c.bias) m.bias[lane] = widen(static_cast<const T*>(c.bias)[to.channel[lane]]);
  }
  const AxisMap &height = b.axis[1], &width = b.axis[2];
  interleave(m.weights, filters, to.count, b.taps_in_all);
  A* ordered = m.weights + b.taps_in_all * kBlock;
  for (int64_t h = 0; h < height.div; ++h) {
    const BandPhase* phases = b.phases + (at.d % b.axis[0].div * height.div + h) * width.div;
    A* next = ordered;
    for (int64_t f = 0; f < width.div; ++f)
      for (int64_t t = 0; t < phases[f].count; ++t, next += kBlock)
        copy(next, m.weights + b.taps[phases[f].first + t].tap * kBlock, kBlock);
    const int64_t rows = band_outputs(b, at.band, h);
    for (int64_t row = 0; row < rows; ++row) {
      const A* weights = ordered;
      for (int64_t f = 0; f < width.div; ++f) {
        phase_row_for<A>(phases[f].run, width.mul)(m.source + row * height.mul * b.row, b.step,
                                                   b.taps + phases[f].first, phases[f].count, weights, m.bias,
                                                   m.line + f * kBlock, width.div * kBlock, phase_outputs(width, f));
        weights += phases[f].count * kBlock;
      }
      const int64_t o = (at.band * b.height + row) * height.div + h;
      write_row(p.planes, static_cast<T*>(c.dst), m.line, to, at.d * c.dst_strides.at[0] + o * c.dst_strides.at[1],
                c.dst_strides.at[2], width.out, m.temporary);
    }
  }
}

}  // namespace

void depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const Depthwise*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Band& b = *p.band;
    const int64_t line = (b.axis[2].out + kOverrun * b.axis[2].div) * kBlock;
    const int64_t weights = 2 * b.taps_in_all * kBlock, temporary = most(b.axis[2].in, b.axis[2].out) * kBlock;
    A* memory = static_cast<A*>(scratch(size_t(b.elements + weights + kBlock + line + temporary) * sizeof(A)));
    Memory<A> m;
    m.source = memory, m.weights = m.source + b.elements, m.bias = m.weights + weights, m.line = m.bias + kBlock;
    m.temporary = m.line + line;
    fill(m.source, b.elements, A(0));
    fill(m.weights, weights + kBlock, A(0));
    for (int64_t index = begin; index < end; ++index) depthwise_band<T>(p, place_of(b, p.planes, index), m);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
