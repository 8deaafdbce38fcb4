// Pooling on bands (cpu/band.h): lanes are planes, a few outputs at a time stay in registers while the taps are walked
// in row-major order, which is torch's: the first maximum wins, the last NaN does.
#include "cpu/kernels/band_rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A>
using Integer = integer_of<A>;

// Eight outputs at a time, then four, of every vector of a row of one phase; may overrun it by kOverrun - 1 outputs.
// Calls visit(count of outputs as a constant, first output, lane).
template <int N>
struct Count {
  static constexpr int value = N;
};
template <class A, class Visit>
void for_outputs(int64_t length, Visit visit) {
  for (int64_t lane = 0; lane < kBlock; lane += lanes<A>) {
    int64_t i = 0;
    for (; length - i > 4; i += 8) visit(Count<8>(), i, lane);
    if (i < length) visit(Count<4>(), i, lane);
  }
}

// Four (or twice four) outputs: with Track, winners hold the taps, starting from the first one inside the input.
template <class A, int P, bool Track>
void maxima(const A* source, int64_t step, const BandTap* taps, int64_t count, const Integer<A>* first, A* out,
            Integer<A>* winners) {
  vec<A> best[P];
  vec<Integer<A>> winner[P];
  for (int p = 0; p < P; ++p) {
    best[p] = broadcast(-A(__builtin_inf()));
    if (Track) winner[p] = vec<Integer<A>>{} + first[p];
  }
  for (int64_t t = 0; t < count; ++t) {
    const A* from = source + taps[t].offset;
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(taps[t].tap);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const vec<A> value = load(from + p * step);
      const auto take = (value > best[p]) | (value != value);
      best[p] = take ? value : best[p];
      if (Track) winner[p] = take ? tap : winner[p];
    }
  }
  for (int p = 0; p < P; ++p) {
    store(out + p * kBlock, best[p]);
    if (Track) store(winners + p * kBlock, winner[p]);
  }
}

// dgrad of max: gy where the tap through which it is read is the one that won.
template <class A, int P>
void winning_gradients(const A* gy, const Integer<A>* offsets, int64_t step, const BandTap* taps, int64_t count, A* out,
                       int64_t out_step) {
  vec<A> sum[P] = {};
  for (int64_t t = 0; t < count; ++t) {
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(taps[t].tap);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const int64_t at = taps[t].offset + p * step;
      const auto won = load(offsets + at) == tap;
      sum[p] += won ? load(gy + at) : vec<A>{};
    }
  }
  for (int p = 0; p < P; ++p) store(out + p * out_step, sum[p]);
}

template <class A, int P>
void sums(const A* source, int64_t step, const BandTap* taps, int64_t count, A* out, int64_t out_step) {
  vec<A> sum[P] = {};
  for (int64_t t = 0; t < count; ++t) {
    const A* from = source + taps[t].offset;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] += load(from + p * step);
  }
  for (int p = 0; p < P; ++p) store(out + p * out_step, sum[p]);
}

template <class A>
struct Memory {
  A *source, *line, *temporary, *shares;
  Integer<A>*offsets, *winners, *first;
};

// The first tap of the window at output o that lies inside the input, or -1.
int64_t first_tap(const AxisMap& axis, int64_t o) {
  for (int64_t t = 0; t < axis.taps; ++t)
    if (axis.source(o, t) >= 0) return t;
  return -1;
}

template <class A>
void first_taps(const AxisMap (&axis)[3], int64_t d, int64_t h, Integer<A>* first) {
  const int64_t t = first_tap(axis[0], d), r = first_tap(axis[1], h);
  for (int64_t o = 0; o < axis[2].out; ++o) {
    const int64_t s = t < 0 || r < 0 ? -1 : first_tap(axis[2], o);
    first[o] = Integer<A>(s < 0 ? -1 : (t * axis[1].taps + r) * axis[2].taps + s);
  }
}

// torch's index of each winner: its place in the D*H*W plane.
template <class A>
void write_indices(const Pooling& p, const Lanes& lanes, int64_t d, int64_t h, const Integer<A>* winners) {
  const AxisMap(&axis)[3] = p.forward;
  const int64_t row = d * p.dst_strides.at[0] + h * p.dst_strides.at[1], taps = axis[1].taps * axis[2].taps;
  for (int64_t o = 0; o < axis[2].out; ++o) {
    for (int64_t lane = 0; lane < lanes.count; ++lane) {
      const int64_t tap = winners[o * kBlock + lane];
      const int64_t id = d * axis[0].mul + axis[0].add + tap / taps * axis[0].step;
      const int64_t ih = h * axis[1].mul + axis[1].add + tap / axis[2].taps % axis[1].taps * axis[1].step;
      const int64_t iw = o * axis[2].mul + axis[2].add + tap % axis[2].taps * axis[2].step;
      p.indices[lanes.start[lane] + row + o * p.dst_strides.at[2]] =
          tap < 0 ? -1 : (id * axis[1].in + ih) * axis[2].in + iw;
    }
  }
}

template <class T>
void max_band(const BandedPooling& q, const Place& at, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Band& b = *q.band;
  const Pooling& p = q.problem;
  const Lanes from = lanes_of(q.planes, p.src_strides, at.block, true);
  const Lanes to = lanes_of(q.planes, p.dst_strides, at.block, false);
  fill_band(b, q.planes, m.source, static_cast<const T*>(p.src), from, p.src_strides, at.d, at.band,
            -A(__builtin_inf()), m.temporary);
  const BandPhase& phase = b.phases[0];
  const BandTap* taps = b.taps + phase.first;
  const bool track = p.offsets || p.indices;
  const int64_t length = b.axis[2].out, pitch = p.dst_strides.at[2];
  for (int64_t row = 0; row < band_outputs(b, at.band, 0); ++row) {
    const int64_t o = at.band * b.height + row, to_row = at.d * p.dst_strides.at[0] + o * p.dst_strides.at[1];
    const A* source = m.source + row * b.axis[1].mul * b.row;
    if (track) first_taps<A>(p.forward, at.d, o, m.first);
    for_outputs<A>(length, [&](auto count, int64_t i, int64_t lane) {
      const auto kernel = track ? maxima<A, 4, true> : maxima<A, 4, false>;
      for (int64_t j = i; j < i + count.value; j += 4)
        kernel(source + j * b.step + lane, b.step, taps, phase.count, m.first + j, m.line + j * kBlock + lane,
               m.winners + j * kBlock + lane);
    });
    write_row(q.planes, static_cast<T*>(p.dst), m.line, to, to_row, pitch, length, m.temporary);
    auto* narrowed = reinterpret_cast<Integer<A>*>(m.temporary);
    if (p.offsets && p.offset_bytes == 1)
      write_row(q.planes, static_cast<uint8_t*>(p.offsets), m.winners, to, to_row, pitch, length, narrowed);
    if (p.offsets && p.offset_bytes == 4)
      write_row(q.planes, static_cast<int32_t*>(p.offsets), m.winners, to, to_row, pitch, length, narrowed);
    if (p.indices) write_indices<A>(p, to, at.d, o, m.winners);
  }
}

// All phases of all rows of a band: `kernel` computes one phase of one row.
template <class T, class Kernel>
void backward_rows(const BandedPooling& q, const Place& at, const Memory<accumulator_t<T>>& m, const Lanes& to,
                   Kernel kernel) {
  const Band& b = *q.band;
  const Pooling& p = q.problem;
  const AxisMap &height = b.axis[1], &width = b.axis[2];
  for (int64_t h = 0; h < height.div; ++h) {
    const BandPhase* phases = b.phases + (at.d % b.axis[0].div * height.div + h) * width.div;
    for (int64_t row = 0; row < band_outputs(b, at.band, h); ++row) {
      for (int64_t f = 0; f < width.div; ++f)
        kernel(row * height.mul * b.row, b.taps + phases[f].first, phases[f].count, m.line + f * kBlock,
               width.div * kBlock, phase_outputs(width, f));
      const int64_t o = (at.band * b.height + row) * height.div + h;
      write_row(q.planes, static_cast<T*>(p.dst), m.line, to, at.d * p.dst_strides.at[0] + o * p.dst_strides.at[1],
                p.dst_strides.at[2], width.out, m.temporary);
    }
  }
}

template <class T>
void max_dgrad_band(const BandedPooling& q, const Place& at, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Band& b = *q.band;
  const Pooling& p = q.problem;
  const Lanes from = lanes_of(q.planes, p.src_strides, at.block, true);
  fill_band(b, q.planes, m.source, static_cast<const T*>(p.src), from, p.src_strides, at.d, at.band, A(0), m.temporary);
  auto* temporary = reinterpret_cast<Integer<A>*>(m.temporary);
  if (p.offset_bytes == 1) {
    fill_band(b, q.planes, m.offsets, static_cast<const uint8_t*>(p.offsets), from, p.src_strides, at.d, at.band,
              Integer<A>(-1), temporary);
  } else {
    fill_band(b, q.planes, m.offsets, static_cast<const int32_t*>(p.offsets), from, p.src_strides, at.d, at.band,
              Integer<A>(-1), temporary);
  }
  backward_rows<T>(q, at, m, lanes_of(q.planes, p.dst_strides, at.block, false),
                   [&](int64_t row, const BandTap* taps, int64_t count, A* out, int64_t out_step, int64_t length) {
                     for_outputs<A>(length, [&](auto p, int64_t i, int64_t lane) {
                       const int64_t from = row + i * b.step + lane;
                       winning_gradients<A, p.value>(m.source + from, m.offsets + from, b.step, taps, count,
                                                     out + i * out_step + lane, out_step);
                     });
                   });
}

// How many elements the window at output o covers on one axis; its low and high padding count if asked, what hangs over
// them in ceil_mode never does (torch's rule).
int64_t covered(const AxisMap& axis, int64_t o, bool padding) {
  const int64_t begin = o * axis.mul + axis.add, end = least(begin + axis.taps, axis.in - axis.add);
  return padding ? end - begin : least(end, axis.in) - most(begin, 0);
}

// The divisors of a row of windows, into m.shares; null if they are all `divisor_override`.
template <class A>
void row_shares(const Pooling& p, int64_t d, int64_t h, A* shares) {
  const bool padding = p.count_include_pad;
  const int64_t rows = covered(p.forward[0], d, padding) * covered(p.forward[1], h, padding);
  for (int64_t o = 0; o < p.forward[2].out; ++o)
    shares[o] = A(p.divisor_override ? p.divisor_override : rows * covered(p.forward[2], o, padding));
}

template <class A>
void divide_row(A* pixels, const A* shares, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t lane = 0; lane < kBlock; ++lane) pixels[i * kBlock + lane] /= shares[i];
}

template <class T>
void average_band(const BandedPooling& q, const Place& at, const Memory<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Band& b = *q.band;
  const Pooling& p = q.problem;
  const AxisMap &depth = b.axis[0], &height = b.axis[1];
  const Lanes from = lanes_of(q.planes, p.src_strides, at.block, true);
  const Lanes to = lanes_of(q.planes, p.dst_strides, at.block, false);
  fill_band(b, q.planes, m.source, static_cast<const T*>(p.src), from, p.src_strides, at.d, at.band, A(0), m.temporary);
  const auto kernel = [&](int64_t row, const BandTap* taps, int64_t count, A* out, int64_t out_step, int64_t length) {
    for_outputs<A>(length, [&](auto n, int64_t i, int64_t lane) {
      sums<A, n.value>(m.source + row + i * b.step + lane, b.step, taps, count, out + i * out_step + lane, out_step);
    });
  };
  if (p.backward) {
    for (int64_t slot = 0; slot < b.slots; ++slot) {
      const int64_t base = b.slot_base[at.d % depth.div * b.slots + slot];
      const int64_t slice = at.d / depth.div * depth.mul + base;
      if (base == kAbsentSlot || slice < 0 || slice >= depth.in) continue;
      for (int64_t i = 0; i < b.rows; ++i) {
        const int64_t row = b.first_row + at.band * b.height * height.mul + i;
        if (row < 0 || row >= height.in) continue;
        row_shares(p, slice, row, m.shares);
        divide_row(m.source + (slot * b.rows + i) * b.row + b.lead * kBlock, m.shares,
                   least(b.axis[2].in, b.pixels - b.lead));
      }
    }
    return backward_rows<T>(q, at, m, to, kernel);
  }
  const BandPhase& phase = b.phases[0];
  for (int64_t row = 0; row < band_outputs(b, at.band, 0); ++row) {
    const int64_t o = at.band * b.height + row;
    kernel(row * height.mul * b.row, b.taps + phase.first, phase.count, m.line, kBlock, b.axis[2].out);
    row_shares(p, at.d, o, m.shares);
    divide_row(m.line, m.shares, b.axis[2].out);
    write_row(q.planes, static_cast<T*>(p.dst), m.line, to, at.d * p.dst_strides.at[0] + o * p.dst_strides.at[1],
              p.dst_strides.at[2], b.axis[2].out, m.temporary);
  }
}

// Sets up the scratch for a run of tasks and calls band(T{}, place, memory) for each.
template <class Visit>
void for_bands(const void* context, int64_t begin, int64_t end, bool maximum, Visit visit) {
  const auto& q = *static_cast<const BandedPooling*>(context);
  const Band& b = *q.band;
  visit_dtype(q.problem.dtype, [&](auto type) {
    using A = accumulator_t<decltype(type)>;
    const bool forward = !q.problem.backward, offsets = maximum && !forward, winners = maximum && forward;
    const int64_t widest = most(b.axis[2].in, b.axis[2].out) + kOverrun,
                  line = (b.axis[2].out + kOverrun * b.axis[2].div) * kBlock;
    Memory<A> m;
    m.source = static_cast<A*>(
        scratch(size_t(b.elements * (offsets ? 2 : 1) + line * (winners ? 2 : 1) + widest * (kBlock + 2)) * sizeof(A)));
    m.line = m.source + b.elements, m.temporary = m.line + line, m.shares = m.temporary + widest * kBlock;
    m.first = reinterpret_cast<Integer<A>*>(m.shares + widest);
    m.offsets = m.winners = m.first + widest;
    fill(m.source, b.elements, maximum && forward ? -A(__builtin_inf()) : A(0));
    fill(m.first, widest, Integer<A>(-1));
    if (offsets) fill(m.offsets, b.elements, Integer<A>(-1));
    for (int64_t index = begin; index < end; ++index) visit(type, q, place_of(b, q.planes, index), m);
  });
}

}  // namespace

void banded_max_pool(const void* context, int64_t begin, int64_t end) {
  for_bands(context, begin, end, true, [](auto type, const BandedPooling& q, const Place& at, const auto& m) {
    q.problem.backward ? max_dgrad_band<decltype(type)>(q, at, m) : max_band<decltype(type)>(q, at, m);
  });
}

void banded_average_pool(const void* context, int64_t begin, int64_t end) {
  for_bands(context, begin, end, false, [](auto type, const BandedPooling& q, const Place& at, const auto& m) {
    average_band<decltype(type)>(q, at, m);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
