// Depthwise convolution, wgrad, on bands (cpu/band.h): lanes are channels, so nothing is summed across lanes. The sums
// of one filter row stay in registers while a few output rows go by; four output pixels at a time share the source
// pixels they overlap in.
#include "cpu/kernels/band_rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Sums of one run of S taps over P pixels; U interleaved sets of sums keep enough additions in flight.
template <class A, int S, int M, int P, int U>
inline __attribute__((always_inline)) void products(const A* x, int64_t step, const A* gy, vec<A> (&sum)[U][S]) {
  vec<A> g[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) g[p] = load(gy + p * kBlock);
  if constexpr (S == 1) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p % U][0] += g[p] * load(x + p * step);
  } else {
#pragma GCC unroll 32
    for (int i = 0; i < (P - 1) * M + S; ++i) {
      const vec<A> value = load(x + i * kBlock);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
        if (i >= p * M && i < p * M + S) sum[p % U][i - p * M] += g[p] * value;
    }
  }
}

// What one call sums: `rows` rows of `length` outputs.
template <class A>
struct Patch {
  const A *x, *gy;
  int64_t step, x_row, gy_row, rows, length;
};

// Adds the gradients of S neighbouring taps to total[s * kBlock].
template <class A, int S, int M>
void run_gradient(const Patch<A>& patch, A* total) {
  constexpr int U = S >= 7 ? 1 : S >= 3 ? 2 : 4;
  for (int64_t lane = 0; lane < kBlock; lane += lanes<A>) {
    vec<A> sum[U][S] = {};
    for (int64_t row = 0; row < patch.rows; ++row) {
      const A* x = patch.x + row * patch.x_row + lane;
      const A* gy = patch.gy + row * patch.gy_row + lane;
      int64_t left = patch.length;
      for (; left >= 4; left -= 4, x += 4 * patch.step, gy += 4 * kBlock)
        products<A, S, M, 4, U>(x, patch.step, gy, sum);
      for (; left > 0; --left, x += patch.step, gy += kBlock) products<A, S, M, 1, U>(x, patch.step, gy, sum);
    }
    for (int s = 0; s < S; ++s) {
      for (int half = U / 2; half; half /= 2)
        for (int u = 0; u < half; ++u) sum[u][s] += sum[u + half][s];
      A* to = total + s * kBlock + lane;
      store(to, load(to) + sum[0][s]);
    }
  }
}

template <class A>
using RunGradient = void (*)(const Patch<A>&, A*);

template <class A>
RunGradient<A> run_gradient_for(int64_t run, int64_t mul) {
  if (run == 2) return mul == 1 ? run_gradient<A, 2, 1> : run_gradient<A, 2, 2>;
  if (run == 3) return mul == 1 ? run_gradient<A, 3, 1> : run_gradient<A, 3, 2>;
  if (run == 5) return mul == 1 ? run_gradient<A, 5, 1> : run_gradient<A, 5, 2>;
  if (run == 7) return mul == 1 ? run_gradient<A, 7, 1> : run_gradient<A, 7, 2>;
  return run_gradient<A, 1, 1>;
}

constexpr int64_t kRowsAtOnce = 8;  // rows summed in registers: rounding errors stay those of short sums

template <class A>
struct Memory {
  A *x, *gy, *sums, *temporary;
};

// Adds one band of one sample to sums[run order of taps][kBlock].
template <class T>
void gradient_band(const DepthwiseGradient& p, int64_t n, const Place& at, const Memory<accumulator_t<T>>& m,
                   accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const Band& b = *p.band;
  const WeightGradient& c = p.problem;
  const Lanes from = lanes_of(p.planes, c.x_strides, at.block, true);
  const Lanes to = lanes_of(p.planes, c.gy_strides, at.block, false);
  const int64_t rows = band_outputs(b, at.band, 0), length = b.axis[2].out;
  fill_band(b, p.planes, m.x, static_cast<const T*>(c.x) + n * c.x_strides.n, from, c.x_strides, at.d, at.band, A(0),
            m.temporary);
  Planes outputs = p.planes;
  outputs.multiplier = 1;
  for (int64_t row = 0; row < rows; ++row)
    read_row(outputs, m.gy + row * length * kBlock, static_cast<const T*>(c.gy) + n * c.gy_strides.n, to,
             at.d * c.gy_strides.at[0] + (at.band * b.height + row) * c.gy_strides.at[1], c.gy_strides.at[2], length,
             m.temporary);
  const BandPhase& phase = b.phases[0];
  const RunGradient<A> run = run_gradient_for<A>(phase.run, b.axis[2].mul);
  const int64_t x_row = b.axis[1].mul * b.row, gy_row = length * kBlock;
  for (int64_t row = 0; row < rows; row += kRowsAtOnce) {
    Patch<A> patch{nullptr, m.gy + row * gy_row, b.step, x_row, gy_row, least(kRowsAtOnce, rows - row), length};
    for (int64_t t = 0; t < phase.count; t += phase.run) {
      patch.x = m.x + row * x_row + b.taps[phase.first + t].offset;
      run(patch, sums + t * kBlock);
    }
  }
}

template <class T, class A>
void write_filters(const DepthwiseGradient& p, int64_t block, const A* sums) {
  const Band& b = *p.band;
  const int64_t first = block * kBlock, count = least(kBlock, p.planes.channels - first);
  for (int64_t t = 0; t < b.taps_in_all; ++t)
    for (int64_t lane = 0; lane < count; ++lane)
      static_cast<T*>(p.problem.gw)[(first + lane) * b.taps_in_all + b.taps[t].tap] =
          narrow<T>(sums[t * kBlock + lane]);
}

template <class T>
void gradient_task(const DepthwiseGradient& p, int64_t task, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Band& b = *p.band;
  const int64_t blocks = p.planes.blocks_per_sample(), slices = b.axis[0].out, each = b.taps_in_all * kBlock;
  const int64_t group = task / p.splits, split = task % p.splits;
  const int64_t first = group * blocks / p.groups, last = (group + 1) * blocks / p.groups;
  const int64_t units = p.problem.n * slices * b.bands;
  fill(m.sums, (last - first) * each, A(0));
  for (int64_t unit = split * units / p.splits; unit < (split + 1) * units / p.splits; ++unit)
    for (int64_t block = first; block < last; ++block)
      gradient_band<T>(p, unit / b.bands / slices, {block, unit / b.bands % slices, unit % b.bands}, m,
                       m.sums + (block - first) * each);
  for (int64_t block = first; block < last; ++block) {
    const A* sums = m.sums + (block - first) * each;
    if (p.splits == 1) {
      write_filters<T>(p, block, sums);
    } else {
      copy(static_cast<A*>(p.problem.partial) + (split * blocks + block) * each, sums, each);
    }
  }
}

}  // namespace

void depthwise_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const DepthwiseGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Band& b = *p.band;
    const int64_t gy = b.height * b.axis[2].out * kBlock, temporary = most(b.axis[2].in, b.axis[2].out) * kBlock;
    const int64_t sums = (p.planes.blocks_per_sample() / p.groups + 1) * b.taps_in_all * kBlock;
    Memory<A> m;
    m.x = static_cast<A*>(scratch(size_t(b.elements + gy + sums + temporary) * sizeof(A)));
    m.gy = m.x + b.elements, m.sums = m.gy + gy, m.temporary = m.sums + sums;
    fill(m.x, b.elements + gy, A(0));
    for (int64_t task = begin; task < end; ++task) gradient_task<T>(p, task, m);
  });
}

// The second stage: tasks are blocks; the splits are added in order.
void depthwise_gradient_sum(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const DepthwiseGradient*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const int64_t blocks = p.planes.blocks_per_sample(), each = p.band->taps_in_all * kBlock;
    A* sums = static_cast<A*>(scratch(size_t(each) * sizeof(A)));
    for (int64_t block = begin; block < end; ++block) {
      const A* part = static_cast<const A*>(p.problem.partial) + block * each;
      fill(sums, each, A(0));
      for (int64_t split = 0; split < p.splits; ++split, part += blocks * each)
        for (int64_t i = 0; i < each; ++i) sums[i] += part[i];
      write_filters<T>(p, block, sums);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
