// Dense and grouped convolution on bands (cpu/band.h). Lanes are kBlock output channels; a source value is broadcast to
// them. Here the band holds single values, not blocks: [channel][row][pixel] in NCHW, [row][pixel][channel] in NHWC,
// so filling it is a copy. Weights are packed once per run: [group, block][tap][source channel][kBlock].
#include "cpu/kernels/band_values.h"
#include "cpu/kernels/transpose.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The lanes of output channels [first, first + count) in a tensor, from the start of sample n.
Lanes channel_lanes(const Strides& strides, int64_t n, int64_t first, int64_t count) {
  Lanes lanes;
  lanes.count = count;
  for (int64_t lane = 0; lane < count; ++lane) {
    lanes.channel[lane] = first + lane;
    lanes.start[lane] = n * strides.n + (first + lane) * strides.c;
  }
  return lanes;
}

template <class A>
struct Tile {
  const A* x;    // source value of the first output through a tap of offset 0, channel 0
  int64_t step;  // elements from one output's source to the next
  Grid grid;
  const BandTap* taps;
  int64_t count, channels, first, last;  // taps; channels in all, and those to sum
  const A* weights;                      // of the phase's first tap
  A* out;
  int64_t out_step;
};

// Adds to P outputs times J vectors.
template <class A, int P, int J>
void add_products(const Tile<A>& t) {
  vec<A> sum[P][J] = {};
  for (int64_t tap = 0; tap < t.count; ++tap) {
    const A* x = t.x + t.taps[tap].offset / kBlock * t.grid.pixel + t.first * t.grid.channel;
    const A* w = t.weights + (tap * t.channels + t.first) * kBlock;
    for (int64_t c = t.first; c < t.last; ++c, x += t.grid.channel, w += kBlock) {
      vec<A> weight[J];
      for (int j = 0; j < J; ++j) weight[j] = load(w + j * lanes<A>);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const vec<A> value = broadcast(x[p * t.step]);
        for (int j = 0; j < J; ++j) sum[p][j] += weight[j] * value;
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int j = 0; j < J; ++j) {
      A* to = t.out + p * t.out_step + j * lanes<A>;
      store(to, load(to) + sum[p][j]);
    }
}

// A phase of an output row, vectors [0, vectors) of the block; may overrun it by kOverrun - 1 pixels.
template <class A>
void add_row(Tile<A> t, int64_t length, int64_t vectors) {
  constexpr int kPair = kBlock / lanes<A> > 1 ? 2 : 1;
  const auto outputs = [&](auto kernel, int64_t by) {
    Tile<A> u = t;
    for (int64_t i = 0; i < length; i += by, u.x += by * t.step, u.out += by * t.out_step) kernel(u);
  };
  int64_t v = 0;
  // Of the tiles, the one that computes least past the end of the row.
  const auto cost = [&](int64_t by) { return (length + by - 1) / by * (2 * by + 1); };
  for (; v + kPair <= vectors; v += kPair, t.weights += kPair * lanes<A>, t.out += kPair * lanes<A>)
    if (cost(6) <= cost(5) && cost(6) <= cost(4)) {
      outputs(add_products<A, 6, kPair>, 6);
    } else if (cost(5) <= cost(4)) {
      outputs(add_products<A, 5, kPair>, 5);
    } else {
      outputs(add_products<A, 4, kPair>, 4);
    }
  for (; v < vectors; ++v, t.weights += lanes<A>, t.out += lanes<A>)
    length > 4 ? outputs(add_products<A, 8, 1>, 8) : outputs(add_products<A, 4, 1>, 4);
}

// Products summed before they join the result: rounding errors then grow with the square root of their number.
constexpr int64_t kProducts = 160;

template <class T>
void blocked_band(const Blocked& p, int64_t n, int64_t g, int64_t d, int64_t band, accumulator_t<T>* source) {
  using A = accumulator_t<T>;
  const Band& b = *p.band;
  const Correlation& c = p.problem;
  const AxisMap &height = b.axis[1], &width = b.axis[2];
  const Grid grid = grid_of(b, c.layout, c.src_channels);
  fill_values(b, c.layout, source, static_cast<const T*>(c.src) + n * c.src_strides.n, g * c.src_channels,
              c.src_channels, c.src_strides, d, band);
  A* line = source + p.band_elements;
  A* temporary = line + (width.out + kOverrun * width.div) * kBlock;
  const int64_t blocks = (c.dst_channels + kBlock - 1) / kBlock, each = b.taps_in_all * c.src_channels * kBlock;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = g * c.dst_channels + block * kBlock;
    const Lanes to = channel_lanes(c.dst_strides, n, first, least(kBlock, c.dst_channels - block * kBlock));
    A bias[kBlock] = {};
    if (c.bias) copy(bias, static_cast<const T*>(c.bias) + first, to.count);
    const A* weights = static_cast<const A*>(p.packed) + (g * blocks + block) * each;
    for (int64_t h = 0; h < height.div; ++h) {
      const BandPhase* phases = b.phases + (d % b.axis[0].div * height.div + h) * width.div;
      for (int64_t row = 0; row < band_outputs(b, band, h); ++row) {
        for (int64_t o = 0; o < width.out; ++o) copy(line + o * kBlock, bias, kBlock);
        for (int64_t f = 0; f < width.div; ++f) {
          const BandPhase& phase = phases[f];
          const int64_t runs = (c.src_channels * phase.count + kProducts - 1) / kProducts;
          const int64_t run = most(1, (c.src_channels + runs - 1) / most(1, runs));  // of channels, evened out
          Tile<A> tile{source + row * height.mul * b.pixels * grid.pixel,
                       width.mul * grid.pixel,
                       grid,
                       b.taps + phase.first,
                       phase.count,
                       c.src_channels,
                       0,
                       0,
                       weights + phase.first * c.src_channels * kBlock,
                       line + f * kBlock,
                       width.div * kBlock};
          for (; tile.first < c.src_channels; tile.first += run) {
            tile.last = least(c.src_channels, tile.first + run);
            add_row(tile, phase_outputs(width, f), (to.count + lanes<A> - 1) / lanes<A>);
          }
        }
        const int64_t o = (band * b.height + row) * height.div + h;
        const int64_t place = d * c.dst_strides.at[0] + o * c.dst_strides.at[1], pitch = c.dst_strides.at[2];
        if (c.residual) add_row(c.layout, line, static_cast<const T*>(c.residual), to, place, pitch, width.out);
        activate_piecewise(line, width.out * kBlock, c.activation, A(c.slope));
        write_row(c.layout, static_cast<T*>(c.dst), line, to, place, pitch, width.out, temporary);
      }
    }
  }
}

}  // namespace

void blocked_pack(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const Blocked*>(context);
  const Correlation& c = p.problem;
  const int64_t blocks = (c.dst_channels + kBlock - 1) / kBlock, taps = p.band->taps_in_all;
  auto* place = static_cast<int64_t*>(scratch(size_t(taps) * sizeof(int64_t)));  // of a tap of the filter
  for (int64_t t = 0; t < taps; ++t) place[p.band->taps[t].tap] = t * c.src_channels * kBlock;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t g = index / blocks, first = index % blocks * kBlock, count = least(kBlock, c.dst_channels - first);
      const T* w = static_cast<const T*>(c.w) + g * c.w_group + first * c.w_dst;
      A* to = static_cast<A*>(p.packed) + index * taps * c.src_channels * kBlock;
      if (c.w_dst == 1) {  // the lanes follow one another
        for (int64_t t = 0; t < taps; ++t)
          copy_pixels(to + place[t], kBlock, w + t * c.w_tap[2], c.w_src, c.src_channels, count);
      } else if (c.w_src == 1) {  // the source channels
        for (int64_t t = 0; t < taps; ++t)
          read_lanes(w + t * c.w_tap[2], c.w_dst, count, c.src_channels,
                     [&](int64_t i) { return to + place[t] + i * kBlock; });
      } else if (c.w_src == taps) {  // the taps, and after them the next source channel's
        read_lanes(w, c.w_dst, count, c.src_channels * taps, [&](int64_t i) {
          const int64_t cs = uint32_t(i) / uint32_t(taps);
          return to + place[i - cs * taps] + cs * kBlock;
        });
      } else {  // the taps of one source channel
        for (int64_t cs = 0; cs < c.src_channels; ++cs)
          read_lanes(w + cs * c.w_src, c.w_dst, count, taps, [&](int64_t t) { return to + place[t] + cs * kBlock; });
      }
    }
  });
}

void blocked(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const Blocked*>(context);
  const Band& b = *p.band;
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const int64_t line = (b.axis[2].out + kOverrun * b.axis[2].div) * kBlock;
    A* source = static_cast<A*>(scratch(size_t(p.band_elements + line + b.axis[2].out * kBlock) * sizeof(A)));
    fill(source, p.band_elements + line, A(0));
    // Neighbours share what is read: NCHW the rows between bands, NHWC the pixels of all groups.
    const bool nchw = p.problem.layout == Layout::nchw;
    const int64_t groups = p.problem.groups, bands = b.axis[0].out * b.bands;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t inside = index % (groups * bands), band = nchw ? inside % bands : inside / groups;
      blocked_band<T>(p, index / (groups * bands), nchw ? inside / bands : inside % groups, band / b.bands,
                      band % b.bands, source);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
