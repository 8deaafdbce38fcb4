// Depthwise convolution, one input and one output channel a group, where a GEMM has nothing to share: a thread computes
// whole results, its lanes side by side along the contiguous axis.
//
//   fprop, dgrad   NCHW  a thread an output; neighbours are neighbouring pixels; the filter's taps are one broadcast
//   load
//                  NHWC  a thread 16 bytes of channels; the block's filters lie in shared memory as [tap][channel]
//                  Traffic: source and result once (windows overlap in L1); R * S multiply-adds an output.
//   wgrad          a block sums up to 9 taps of a channel (NCHW) or of 32 channels, one a lane (NHWC), over a slice of
//                  the positions; each thread in a fixed order, then the threads in a fixed tree.
//                  Traffic: x and gy once for every 9 taps.
#pragma once

#include "kernels/depthwise_params.h"
#include "kernels/direct.h"

namespace fastconv::kernels {

// The source coordinate that output position `at` sees through `tap` on one axis; negative: none.
FC_DEVICE int source_coordinate(const DirectAxis& a, const Divisor& by_stride, bool transposed, int at, int tap) {
  if (!transposed) {
    const int x = at * a.stride - a.pad + tap * a.dilation;
    return x < a.source_extent ? x : -1;
  }
  const int shifted = at + a.pad - tap * a.dilation;
  if (shifted < 0) return -1;
  const int x = by_stride.divide(shifted);
  return x < a.source_extent && x * a.stride == shifted ? x : -1;
}

// Sum over the taps of one output position for V channels. `filter(tap)` gives V weights.
template <class T, int V, class Filter>
FC_DEVICE void depthwise_sum(Vec<accumulator_t<T>, V>& sum, const DepthwiseParams& p, const T* source,
                             const int (&at)[3], Filter filter) {
  using A = accumulator_t<T>;
  const GatherParams& g = p.gather;
  int tap = 0;
  for (int t = 0; t < g.axis[0].taps; ++t) {
    const int d = source_coordinate(g.axis[0], p.by_stride[0], g.transposed, at[0], t);
    for (int r = 0; r < g.axis[1].taps; ++r) {
      const int h = source_coordinate(g.axis[1], p.by_stride[1], g.transposed, at[1], r);
      const T* row = source + d * g.source_strides.axis[0] + h * g.source_strides.axis[1];
      const bool row_on = d >= 0 && h >= 0;
      for (int s = 0; s < g.axis[2].taps; ++s, ++tap) {
        const int w = source_coordinate(g.axis[2], p.by_stride[2], g.transposed, at[2], s);
        const auto x = load_if(row_on && w >= 0, as<Vec<T, V>>(row + w * g.source_strides.axis[2]));
        const Vec<A, V> weight = filter(tap);
        FC_UNROLL
        for (int e = 0; e < V; ++e) sum[e] = fma(A(widen(x[e])), weight[e], sum[e]);
      }
    }
  }
}

template <class T, int V, bool ChannelsLast>
FC_KERNEL(depthwise_threads, 1)
void depthwise(const FC_GRID_CONSTANT DepthwiseParams p) {
  using A = accumulator_t<T>;
  const GatherParams& g = p.gather;
  const int taps = g.axis[0].taps * g.axis[1].taps * g.axis[2].taps;
  const Shared<A> staged = dynamic_shared<A>();
  // Positions are counted over (sample, d, h, w), channels first over (plane, d, h, w).
  const int64_t outer = ChannelsLast ? g.batch : g.batch * g.groups;
  const Extents extents{{int(outer), g.axis[0].out_extent, g.axis[1].out_extent, g.axis[2].out_extent}};
  int64_t first = int(blockIdx.x);
  int step = depthwise_threads, offset = int(threadIdx.x), lane_channel = 0, first_channel = 0;
  bool on = true;
  const Epilogue<T> epilogue(g, 0);
  if constexpr (ChannelsLast) {
    const int width = p.lanes * V;  // and a vector more from tap to tap, for the banks
    first_channel = int(blockIdx.x) % p.channel_blocks * width, first = int(blockIdx.x) / p.channel_blocks;
    step = p.by_lanes.divide(depthwise_threads);
    offset = p.by_lanes.divide(offset);
    lane_channel = p.by_lanes.remainder(int(threadIdx.x), offset) * V;
    on = offset < step && first_channel + lane_channel < g.groups;
    for (int i = int(threadIdx.x); i < taps * width; i += depthwise_threads) {
      const int c = p.by_taps.divide(i), tap = p.by_taps.remainder(i, c);
      const T* w = static_cast<const T*>(g.filter) + int64_t(first_channel) * taps + i;
      staged.store(tap * (width + V) + c, A(widen(load_if(first_channel + c < g.groups, w))));
    }
    sync_threads();
  }
  const Position advance = Position::at(step, extents);
  Position position = Position::at(first * step * p.positions_a_thread + offset, extents);
  for (int u = 0; u < p.positions_a_thread; ++u, position.advance(advance, extents)) {
    if (!on || !position.within(extents)) continue;
    const int at[3] = {position.digit[1], position.digit[2], position.digit[3]};
    const int sample = ChannelsLast ? position.digit[0] : p.by_channels.divide(position.digit[0]);
    const int channel =
        ChannelsLast ? first_channel + lane_channel : p.by_channels.remainder(position.digit[0], sample);
    const T* source =
        static_cast<const T*>(g.source) + sample * g.source_strides.batch + channel * g.source_strides.group;
    Vec<A, V> sum{};
    if constexpr (ChannelsLast) {
      const int pitch = (p.lanes + 1) * V;
      depthwise_sum<T, V>(sum, p, source, at,
                          [&](int tap) { return staged.template load_as<Vec<A, V>>(tap * pitch + lane_channel); });
    } else {
      const T* w = static_cast<const T*>(g.filter) + int64_t(channel) * taps;
      depthwise_sum<T, V>(sum, p, source, at, [&](int tap) { return Vec<A, V>{{A(widen(load(w + tap)))}}; });
    }
    int64_t o = sample * g.out_strides.batch + channel * g.out_strides.group;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) o += at[i] * g.out_strides.axis[i];
    store(as<Vec<T, V>>(static_cast<T*>(g.out) + o), epilogue.finish(sum, true, channel, 1, o));
  }
}

template <class T, bool ChannelsLast>
FC_KERNEL(depthwise_threads, 1)
void depthwise_wgrad(const FC_GRID_CONSTANT WgradParams p) {
  using A = accumulator_t<T>;
  constexpr int warps = depthwise_threads / 32, pitch = depthwise_threads + 4;  // from tap to tap, for the banks
  FC_STATIC_SHARED(A, sums, depthwise_taps * pitch);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int index = int(blockIdx.x);
  const int first_tap = index % p.column_tiles * depthwise_taps;
  index /= p.column_tiles;
  const int channel = ChannelsLast ? index % p.row_tiles * 32 + lane : index % p.row_tiles;
  const int slice = index / p.row_tiles;

  const AxisPhase axis[3] = {AxisPhase::fprop(p.axis[0]), AxisPhase::fprop(p.axis[1]), AxisPhase::fprop(p.axis[2])};
  const Extents positions{{int(p.batch), axis[0].positions, axis[1].positions, axis[2].positions}};
  const Extents taps{{1, axis[0].taps, axis[1].taps, axis[2].taps}};
  const auto tap_spots = tap_lattice<1>(axis, p.x_strides.axis, 0);
  const Lattice<1> x_spots = position_lattice(axis, p.x_strides);
  const int extent[3] = {p.axis[0].source_extent, p.axis[1].source_extent, p.axis[2].source_extent};
  Spot tap[depthwise_taps];
  FC_UNROLL
  for (int j = 0; j < depthwise_taps; ++j) {
    const Position position = Position::at(first_tap + j, taps);
    tap[j] = tap_spots.spot(position);
    if (!position.within(taps)) tap[j].move_outside();
  }

  const T* x = static_cast<const T*>(p.x) + channel * p.x_strides.group;
  const T* gy = static_cast<const T*>(p.gy) + channel * p.gy_strides.group;
  const int step = ChannelsLast ? warps : depthwise_threads;
  const int64_t begin = slice * p.slice_length, volume = positions.volume();
  const int64_t end = min(begin + p.slice_length, volume);
  const Position advance = Position::at(step, positions);
  int64_t i = begin + (ChannelsLast ? warp : int(threadIdx.x));
  Position position = Position::at(i, positions);
  A sum[depthwise_taps] = {};
  for (; i < end; i += step, position.advance(advance, positions)) {
    int64_t o = position.digit[0] * p.gy_strides.batch;
    FC_UNROLL
    for (int a = 0; a < 3; ++a) o += position.digit[a + 1] * p.gy_strides.axis[a];
    const A gradient = A(widen(load_if(channel < p.groups, gy + o)));
    const Spot spot = x_spots.spot(position);
    FC_UNROLL
    for (int j = 0; j < depthwise_taps; ++j) {
      const bool on = channel < p.groups && spot.inside(tap[j], extent);
      sum[j] = fma(gradient, A(widen(load_if(on, x + spot.offset + tap[j].offset))), sum[j]);
    }
  }
  FC_UNROLL
  for (int j = 0; j < depthwise_taps; ++j) {
    if constexpr (!ChannelsLast) sum[j] = warp_sum(sum[j]);
    sums.store(j * pitch + int(threadIdx.x), sum[j]);
  }
  sync_threads();
  // The warps are added in their order, a thread a tap and channel, as they lie in the result.
  const int count = ChannelsLast ? 32 * depthwise_taps : depthwise_taps;
  for (int k = int(threadIdx.x); k < count; k += depthwise_threads) {
    const int j = k % depthwise_taps, c = k / depthwise_taps, to = channel - (ChannelsLast ? lane : 0) + c;
    A total = 0;
    FC_UNROLL
    for (int w = 0; w < warps; ++w) total += sums.load(j * pitch + w * 32 + c);
    const bool on = to < p.groups && first_tap + j < p.columns;
    const int64_t o = (int64_t(slice) * p.groups + to) * p.columns + first_tap + j;
    if (p.partial) {
      store_if(on, static_cast<A*>(p.out) + o, total);
    } else {
      store_if(on, static_cast<T*>(p.out) + o, narrow<T>(total));
    }
  }
}

}  // namespace fastconv::kernels
