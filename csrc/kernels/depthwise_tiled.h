// fprop and dgrad of depthwise convolution. A thread computes strips of 7 outputs, one under the other, of one column
// and one word of channels. For each column of the filter it reads the strip's rows of the source from shared memory
// once, and every row is multiplied by all of the (up to Taps) weights that it meets:
//
//    source rows        outputs          Stride 1, 3 taps: 9 rows and 3 weights read for 21 multiply-adds.
//       0 ─┐                             A dilation is the strip's spacing: outputs and rows e apart meet as those of
//       1 ─┼─ w0 w1 w2 ── 0              an undilated convolution do. dgrad is fprop with the filter turned round,
//       2 ─┘              1              of stride 2 one of stride 1 for each parity of the outputs, with the taps
//       :                 :              that meet it: no product with a zero of the upsampled gradient.
//       8                 6
//
// Several filters a channel: fprop's threads are those of the outputs, of which neighbours read one channel; dgrad's
// add up the channels of gy that one of x made.
//
// Lanes run along the row as it lies in memory: columns (channels first), or channels, then columns. Rows outside the
// source are one row of zeros; columns outside are skipped. Filters lie in shared memory as in the tensor, with an
// odd pitch: lanes of different channels meet in no bank.
//
// Traffic: the source once and the halo, the result once. 2 * R * S FLOP an output.
#pragma once

#include "kernels/depthwise_tile.h"
#include "kernels/epilogue.h"

namespace fastconv::kernels {

// Where in shared memory a thread finds the weights of its channels: `at` and on, `half` from channel to channel.
template <class A>
struct StripWeights {
  Shared<A> filters;
  int at, half;
};

template <class T, int V, int Taps, int Step>
FC_DEVICE void add_rows(accumulator_t<T> (&sum)[depthwise_strip][V], const Shared<T>& patch,
                        const int (&row)[(depthwise_strip - 1) * Step + Taps], int column, bool on,
                        const StripWeights<accumulator_t<T>>& weights, int tap, int tap_step) {
  using A = accumulator_t<T>;
  if (lanes_wait && !on) return;
  A weight[Taps][V];
  FC_UNROLL
  for (int n = 0; n < Taps; ++n) {
    FC_UNROLL
    for (int v = 0; v < V; ++v)
      weight[n][v] = weights.filters.load_if(on, weights.at + v * weights.half + tap + n * tap_step);
  }
  FC_UNROLL
  for (int m = 0; m < (depthwise_strip - 1) * Step + Taps; ++m) {
    const auto x = patch.template load_as_if<Vec<T, V>>(on, row[m] + column);
    FC_UNROLL
    for (int n = 0; n < Taps; ++n) {
      const int l = (m - n) / Step;
      if (m < n || (m - n) % Step != 0 || l >= depthwise_strip) continue;
      FC_UNROLL
      for (int v = 0; v < V; ++v) sum[l][v] = fma(A(widen(x[v])), weight[n][v], sum[l][v]);
    }
  }
}

// A block's planes of the result; channels last, those of the source.
FC_DEVICE int64_t first_output_plane(const DepthwiseTiledParams& p, const TileBlock& block) {
  return p.channels_last ? block.first_plane : p.by_summed.divide(int(block.first_plane)) * int64_t(p.spread);
}
FC_DEVICE int output_planes(const DepthwiseTiledParams& p, const TileBlock& block) {
  return p.channels_last ? block.planes : p.by_summed.divide(block.planes) * p.spread;
}

// A strip's place in the result: its first output and its column, in the tile.
struct StripPlace {
  int channel, column, plane, slice, phase, position;

  FC_DEVICE StripPlace(const DepthwiseTiledParams& p, int index, int vector) {
    int rest = p.by_vectors.divide(index);
    channel = p.by_vectors.remainder(index, rest) * vector;
    index = rest, rest = p.by_columns.divide(index);
    column = p.by_columns.remainder(index, rest);
    if (p.pairs > 0) column = column < p.pairs ? 2 * column : 2 * (column - p.pairs) + 1;
    index = rest, rest = p.by_planes.divide(index);
    plane = p.by_planes.remainder(index, rest) * p.plane_step & p.plane_mask;
    index = rest, rest = p.by_depth.divide(index);
    slice = p.by_depth.remainder(index, rest);
    phase = rest >= p.strips;
    if (phase) rest -= p.strips;
    const int group = p.by_spacing.divide(rest);
    position = p.by_spacing.remainder(rest, group) + group * depthwise_strip * p.tile.axis[1].spacing;
  }
};

// One axis at one output: source coordinate, from the patch's start, of tap 0, and the phase's taps.
struct TapsAt {
  int source;
  const TileTaps* taps;

  FC_DEVICE TapsAt(const TileAxis& a, int out, int start) {
    const bool odd = a.phases == 2 && out % 2 != 0;
    taps = &a.phase[odd];
    source = (a.phases == 2 ? out / 2 : out) * a.step + taps->first - start;
  }
};

// The sums of a strip.
template <class T, int V, int Taps, int Step>
struct Strip {
  using A = accumulator_t<T>;
  A sum[depthwise_strip][V] = {};

  // `Some` rows of the filter from `first` on, whose first row of the source is y, in one slice of the patch, at base.
  template <int Some>
  FC_DEVICE void add(const DepthwiseTiledParams& p, const Shared<T>& patch, const StripWeights<A>& weights, int base,
                     int y, const TapsAt& across, int channel, int tap, int tap_step) {
    constexpr int rows = (depthwise_strip - 1) * Step + Some;
    const TileAxis &down = p.tile.axis[1], &a = p.tile.axis[2];
    int row[rows];
    FC_UNROLL
    for (int m = 0; m < rows; ++m) {
      const int at = y + m * down.spacing;
      row[m] = unsigned(at) < unsigned(down.patch) ? base + at * p.tile.row_pitch : 0;
    }
    FC_NO_UNROLL
    for (int s = 0; s < max(across.taps->taps, p.least_columns); ++s) {
      const int x = across.source + s * a.spacing;
      const bool on = s < across.taps->taps && unsigned(x) < unsigned(a.patch);
      add_rows<T, V, Some, Step>(sum, patch, row, column_place(p.tile, x) * p.tile.chunk + channel, on, weights,
                                 tap + across.taps->filter_first + s * across.taps->filter_step, tap_step);
    }
  }

  // The `source`-th plane or channel of the block's source.
  FC_DEVICE void accumulate(const DepthwiseTiledParams& p, const TileBlock& block, const StripPlace& place, int source,
                            const Shared<T>& patch, const StripWeights<A>& weights) {
    const int channel = p.channels_last ? source : 0, plane = p.channels_last ? place.plane : source;
    const TileAxis &deep = p.tile.axis[0], &down = p.tile.axis[1];
    const TapsAt depth(deep, block.out_first[0] + place.slice, block.start[0]);
    const TapsAt across(p.tile.axis[2], block.out_first[2] + place.column, block.start[2]);
    const TileTaps& taps = down.phase[place.phase];
    const int first = block.out_first[1] / down.phases + place.position;
    const int y = first * Step + taps.first - block.start[1];
    const int tap_step = taps.filter_step * p.filter_columns;
    for (int t = 0; t < depth.taps->taps; ++t) {
      const int z = depth.source + t * deep.spacing;
      if (unsigned(z) >= unsigned(deep.patch)) continue;
      // The zero row comes first.
      const int base = p.tile.row_pitch + plane * p.tile.plane_pitch + z * p.tile.slice_pitch;
      const int slice_tap = (depth.taps->filter_first + t * depth.taps->filter_step) * p.filter_rows;
      int r = 0;
      const auto add_some = [&](auto some) {
        const int tap = (slice_tap + taps.filter_first + r * taps.filter_step) * p.filter_columns;
        add<decltype(some)::value>(p, patch, weights, base, y + r * down.spacing, across, channel, tap, tap_step);
        r += decltype(some)::value;
      };
      FC_NO_UNROLL
      while (r + Taps <= taps.taps) add_some(std::integral_constant<int, Taps>());
      FC_NO_UNROLL
      while (r < taps.taps) add_some(std::integral_constant<int, 1>());
    }
  }

  // The sums, to where store_staged finds them.
  FC_DEVICE void put(const DepthwiseTiledParams& p, const StripPlace& place, bool mine, const Shared<A>& sums) const {
    const TileAxis& down = p.tile.axis[1];
    const int slab = place.plane * p.out_pitch + place.slice * int(p.by_slab.value) + place.column;
    FC_UNROLL
    for (int l = 0; l < depthwise_strip; ++l) {
      const int j = place.position + l * down.spacing, h = place.phase + j * down.phases;
      if (mine && j < p.positions && h < down.tile) sums.store(slab + h * p.tile.axis[2].tile, sum[l][0]);
    }
  }

  // Bias, residual and activation, then the stores. Their code is long, so the loop is not unrolled: the sums move up.
  FC_DEVICE void finish(const DepthwiseTiledParams& p, const TileBlock& block, const StripPlace& place, bool mine) {
    const GatherParams& g = p.gather;
    const TileAxis& down = p.tile.axis[1];
    const Epilogue<T> epilogue(g, 0);
    const int c = p.by_summed.divide(block.first_channel) * p.spread + place.channel,
              d = block.out_first[0] + place.slice;
    const int w = block.out_first[2] + place.column;
    const int64_t plane = first_output_plane(p, block) + place.plane;
    const bool inside =
        mine && place.plane < output_planes(p, block) && d < p.tile.axis[0].out_extent && w < p.tile.axis[2].out_extent;
    const int rest = p.outputs - c;
    const int channel = p.channels_last ? c : p.by_channels.remainder(int(plane), p.by_channels.divide(int(plane)));
    A bias[V] = {};
    FC_UNROLL
    for (int v = 0; v < V; ++v)
      if (epilogue.bias) bias[v] = A(widen(load_if(inside && v < rest, epilogue.bias + channel + v)));
    int h = block.out_first[1] + place.phase + place.position * down.phases, left = p.positions - place.position;
    int64_t o =
        plane * p.out_stride + c + d * g.out_strides.axis[0] + h * g.out_strides.axis[1] + w * g.out_strides.axis[2];
    FC_NO_UNROLL
    for (int l = 0; l < depthwise_strip; ++l) {
      const bool on = inside && left > 0 && h < down.out_extent;
      Vec<A, V> values;
      FC_UNROLL
      for (int v = 0; v < V; ++v) values[v] = sum[0][v] + bias[v];
      if (V == 1 || g.vector_stores) {
        put(epilogue, values, on && rest > 0, o, static_cast<T*>(g.out));
      } else {
        FC_UNROLL
        for (int v = 0; v < V; ++v)
          put(epilogue, Vec<A, 1>{{values[v]}}, on && v < rest, o + v, static_cast<T*>(g.out));
      }
      h += down.spacing * down.phases, left -= down.spacing;
      o += down.spacing * down.phases * g.out_strides.axis[1];
      FC_UNROLL
      for (int m = 1; m < depthwise_strip; ++m) {
        FC_UNROLL
        for (int v = 0; v < V; ++v) sum[m - 1][v] = sum[m][v];
      }
    }
  }

  template <int Width>
  FC_DEVICE static void put(const Epilogue<T>& epilogue, const Vec<A, Width>& values, bool on, int64_t o, T* out) {
    const auto added = load_if(on && epilogue.residual, as<Vec<T, Width>>(epilogue.residual + o));
    store_if(on, as<Vec<T, Width>>(out + o), epilogue.finish(values, added));
  }
};

// The filters of the block's channels, as numbers of the accumulators' type. A word's channels lie `half` apart, so
// that neighbouring lanes are neighbouring filters.
template <class T, int V>
FC_DEVICE void stage_filters(const DepthwiseTiledParams& p, const TileBlock& block,
                             const Shared<accumulator_t<T>>& filters) {
  using A = accumulator_t<T>;
  const T* from = static_cast<const T*>(p.gather.filter);
  for (int i = int(threadIdx.x); i < p.filters * p.taps; i += depthwise_tile_threads) {
    const int k = p.by_taps.divide(i), tap = p.by_taps.remainder(i, k);
    int channel = block.first_channel * p.spread + k;
    bool on = channel < int(p.by_filters.value);
    if (!p.channels_last) {
      const int plane = int(block.first_plane) * p.spread + k;
      on = k < block.planes * p.spread;
      channel = p.by_filters.remainder(plane, p.by_filters.divide(plane));
    }
    const int place = k % V * (p.filters / V) + k / V;
    filters.store(place * p.filter_pitch + tap, A(widen(load_if(on, from + int64_t(channel) * p.taps + tap))));
  }
}

// Channels first, rows that are no whole sectors: the tile's sums lie in shared memory as its outputs do in memory,
// rows and whole planes one after the other, and leave from there, starting at a sector.
template <class T>
FC_DEVICE void store_staged(const DepthwiseTiledParams& p, const TileBlock& block,
                            const Shared<accumulator_t<T>>& sums) {
  using A = accumulator_t<T>;
  const GatherParams& g = p.gather;
  const TileAxis &deep = p.tile.axis[0], &down = p.tile.axis[1];
  const Epilogue<T> epilogue(g, 0);
  const int64_t first_plane = first_output_plane(p, block);
  T* out = static_cast<T*>(g.out) + first_plane * p.out_stride + block.out_first[0] * g.out_strides.axis[0] +
           block.out_first[1] * g.out_strides.axis[1];
  const int64_t base = out - static_cast<T*>(g.out);
  const int slab = int(p.by_slab.value);
  const int live = min(down.tile, down.out_extent - block.out_first[1]) * p.tile.axis[2].out_extent;
  const int shift = int(reinterpret_cast<uintptr_t>(out) / sizeof(T) % (32 / sizeof(T)));
  for (int i = int(threadIdx.x) - shift; i < p.by_summed.divide(p.tile.planes) * p.spread * deep.tile * slab;
       i += depthwise_tile_threads) {
    const int at = max(i, 0), quotient = p.by_slab.divide(at), rest = p.by_slab.remainder(at, quotient);
    const int plane = p.by_depth.divide(quotient), d = p.by_depth.remainder(quotient, plane);
    const int index = int(first_plane + plane);
    const bool on =
        i >= 0 && rest < live && plane < output_planes(p, block) && block.out_first[0] + d < deep.out_extent;
    const int64_t o = base + plane * p.out_stride + d * g.out_strides.axis[0] + rest;
    const Vec<A, 1> sum{{sums.load(plane * p.out_pitch + d * slab + rest)}};
    store_if(on, static_cast<T*>(g.out) + o,
             epilogue.finish(sum, on, p.by_channels.remainder(index, p.by_channels.divide(index)), 1, o)[0]);
  }
}

template <class T, int V, int Taps, int Step>
FC_KERNEL(depthwise_tile_threads, 1)
void depthwise_tiled(const FC_GRID_CONSTANT DepthwiseTiledParams p) {
  using A = accumulator_t<T>;
  const Shared<A> filters = dynamic_shared<A>(), sums = dynamic_shared<A>(p.out_bytes);
  const Shared<T> patch = dynamic_shared<T>(p.patch_bytes);
  const int tile = p.tile.by_channel_blocks.divide(int(blockIdx.x));
  TileBlock block(p.tile, tile);
  block.first_channel = p.tile.by_channel_blocks.remainder(int(blockIdx.x), tile) * p.tile.chunk;
  stage_patch(p.tile, block, static_cast<const T*>(p.gather.source), p.gather.source_strides, patch + p.tile.row_pitch);
  stage_filters<T, V>(p, block, filters);
  for (int i = int(threadIdx.x); i < p.tile.row_pitch; i += depthwise_tile_threads) patch.store(i, T{});
  cp_async_wait<0>();
  sync_threads();
  const int lane = int(threadIdx.x) % 32;
  for (int i = int(threadIdx.x); i - lane < p.work; i += depthwise_tile_threads) {
    sync_warp();  // lanes that met fewer taps wait
    const StripPlace place(p, min(i, p.work - 1), V);
    const int output = p.channels_last ? place.channel : place.plane;
    int source = p.by_spread.divide(output) * p.summed, filter = output / V * p.summed;
    Strip<T, V, Taps, Step> strip;
    for (const int end = source + p.summed; source < end; ++source, ++filter)
      strip.accumulate(p, block, place, source, patch,
                       {filters, filter * p.filter_pitch, p.filters / V * p.filter_pitch});
    if (p.staged_out) {
      strip.put(p, place, i < p.work, sums);
    } else {
      strip.finish(p, block, place, i < p.work);
    }
  }
  sync_threads();
  if (p.staged_out) store_staged<T>(p, block, sums);
}

}  // namespace fastconv::kernels
