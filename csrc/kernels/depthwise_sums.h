// wgrad of depthwise convolution: gw[c, r, s] is a sum over samples and positions. A block owns some channels, up to
// 7 x 7 taps of their filters and a slice of the tiles (samples and boxes of outputs); it adds tile after tile to sums
// in registers, a thread all of its channel's taps:
//
//    x rows in shared memory     gy in registers       For every strip of 7 outputs, one under the other, a thread
//       0 ─── r 0 ───────────────── 0                  reads 7 gradients once and, for each column of the filter, the
//       1 ─── r 0 ── r 1 ───────────1                  7 + 2 .. 7 + 6 rows of x that they meet (more of stride 2).
//       :
// At the end the threads of a channel add up their sums in a fixed order. Several slices: reduce.h adds them, in order.
//
// Traffic: x and gy once (and x's halo), whatever the filter up to 7 x 7; for larger ones once for each 7 x 7 of it.
#pragma once

#include "kernels/depthwise_tile.h"

namespace fastconv::kernels {

// What one block adds up, from its index: channels fastest, then taps, then slices.
struct SumsBlock {
  int channel_block, slice, first_tap[3];

  FC_DEVICE SumsBlock(const DepthwiseSumsParams& p, int index, int taps) {
    const auto digit = [&](const Divisor& by) {
      const int quotient = by.divide(index), found = by.remainder(index, quotient);
      index = quotient;
      return found;
    };
    channel_block = digit(p.x_tile.by_channel_blocks);
    first_tap[2] = digit(p.by_column_tiles) * taps, first_tap[1] = digit(p.by_row_tiles) * taps;
    first_tap[0] = digit(p.by_depth_taps);
    slice = index;
  }

  // Of x, or of gy, whose tiles have no windows. Channels first, a tile's planes are neighbouring channels of one
  // sample, of `channels` in all.
  FC_DEVICE TileBlock tile(const DepthwiseSumsParams& p, const DepthwiseTile& t, int channels, int item,
                           const int (&shift)[3] = {0, 0, 0}) const {
    TileBlock block(t, item, shift);
    if (p.channels_last) {
      block.first_channel = channel_block * t.chunk;
    } else {
      const int first = channel_block * t.planes;
      block.first_plane = block.first_plane / t.planes * channels + first;
      block.planes = min(t.planes, channels - first);
    }
    return block;
  }
};

// One strip's place in a tile: its planes of x and of gy.
struct SumsPlace {
  int column, plane, gy_plane, slice, position;

  // `x_slot`: the one of x that the slot's gradients are of.
  FC_DEVICE SumsPlace(const DepthwiseSumsParams& p, int index, int slot, int x_slot) {
    int rest = p.by_columns.divide(index);
    column = p.by_columns.remainder(index, rest);
    index = rest, rest = p.by_samples.divide(index);
    gy_plane = p.channels_last ? p.by_samples.remainder(index, rest) : slot;
    plane = p.channels_last ? gy_plane : x_slot;
    index = rest, rest = p.by_depth.divide(index);
    slice = p.by_depth.remainder(index, rest);
    const int group = p.by_spacing.divide(rest);
    position = p.by_spacing.remainder(rest, group) + group * depthwise_strip * p.x_tile.axis[1].spacing;
  }
};

template <class T, int V, int Taps, int Step>
struct TapSums {
  using A = accumulator_t<T>;
  static constexpr int rows = (depthwise_strip - 1) * Step + Taps;
  A sum[Taps][Taps][V] = {};  // [row][column]

  FC_DEVICE void add_strip(const DepthwiseSumsParams& p, const SumsBlock& taps, const TileBlock& x_block,
                           const TileBlock& gy_block, const SumsPlace& place, int channel, int gy_channel,
                           const Shared<T>& x, const Shared<T>& gy) {
    const TileAxis &deep = p.x_tile.axis[0], &down = p.x_tile.axis[1], &across = p.x_tile.axis[2];
    const int d = x_block.out_first[0] + place.slice, w = x_block.out_first[2] + place.column;
    const int z = d * deep.step + deep.phase[0].first + taps.first_tap[0] * deep.spacing - x_block.start[0];
    if (place.plane >= x_block.planes || d >= deep.out_extent || w >= across.out_extent) return;
    if (unsigned(z) >= unsigned(deep.patch)) return;
    const int first = x_block.out_first[1] + place.position;
    A gradient[depthwise_strip][V];
    const int valid = load_gradients(
        p, gy,
        p.gy_tile.row_pitch + (V == 1 ? place.gy_plane : place.plane) * p.gy_tile.plane_pitch +
            (d - gy_block.start[0]) * p.gy_tile.slice_pitch + (w - gy_block.start[2]) * p.gy_tile.chunk + gy_channel,
        place.position, first, gy_block.start[1], gradient);

    const int y = first * Step + down.phase[0].first + taps.first_tap[1] * down.spacing - x_block.start[1];
    const int base = p.x_tile.row_pitch + place.plane * p.x_tile.plane_pitch + z * p.x_tile.slice_pitch;
    int row[rows];
    bool outside = false;
    FC_UNROLL
    for (int m = 0; m < rows; ++m) {
      const int at = y + m * down.spacing;
      row[m] = unsigned(at) < unsigned(down.patch) ? base + at * p.x_tile.row_pitch : 0;
      outside = outside || row[m] == 0;
    }
    const int column = w * across.step + across.phase[0].first + taps.first_tap[2] * across.spacing - x_block.start[2];
    // Zeros stand for what is not there, but zero times infinity is not zero: then, every product is asked for.
    const bool guarded = valid < depthwise_strip || (outside && !are_finite(gradient));
    const auto add_columns = [&](auto guard) {
      FC_UNROLL
      for (int s = 0; s < Taps; ++s) {
        const int at = column + s * across.spacing;
        if (taps.first_tap[2] + s >= p.filter[2] || unsigned(at) >= unsigned(across.patch)) continue;
        add_column<decltype(guard)::value>(x, row, column_place(p.x_tile, at) * p.x_tile.chunk + channel, gradient,
                                           valid, s);
      }
    };
    if (guarded) {
      add_columns(std::true_type());
    } else {
      add_columns(std::false_type());
    }
  }

  FC_DEVICE static bool are_finite(const A (&gradient)[depthwise_strip][V]) {
    A sum = 0;  // of zeros, or of what infinity makes of them
    FC_UNROLL
    for (int l = 0; l < depthwise_strip; ++l) {
      FC_UNROLL
      for (int v = 0; v < V; ++v) sum = fma(gradient[l][v], A(0), sum);
    }
    return sum == 0;
  }

  // Of outputs h, h + spacing, ...; beyond the tile they are zeros. Returns how many are not beyond.
  FC_DEVICE int load_gradients(const DepthwiseSumsParams& p, const Shared<T>& gy, int base, int position, int h,
                               int start, A (&gradient)[depthwise_strip][V]) const {
    const TileAxis& down = p.x_tile.axis[1];
    int valid = 0;
    FC_UNROLL
    for (int l = 0; l < depthwise_strip; ++l) {
      const bool on = position + l * down.spacing < p.positions && h + l * down.spacing < down.out_extent;
      const int row = base + (h + l * down.spacing - start) * p.gy_tile.row_pitch;
      const auto values = gy.template load_as<Vec<T, V>>(on ? row : 0);
      FC_UNROLL
      for (int v = 0; v < V; ++v) gradient[l][v] = A(widen(values[v]));
      valid += on;
    }
    return valid;
  }

  // Guarded: only of rows that are there, and of the first `valid` gradients.
  template <bool Guarded>
  FC_DEVICE void add_column(const Shared<T>& source, const int (&row)[rows], int column,
                            const A (&gradient)[depthwise_strip][V], int valid, int s) {
    FC_UNROLL
    for (int m = 0; m < rows; ++m) {
      if (Guarded && row[m] == 0) continue;
      const auto x = source.template load_as<Vec<T, V>>(row[m] + column);
      FC_UNROLL
      for (int r = 0; r < Taps; ++r) {
        const int l = (m - r) / Step;
        if (m < r || (m - r) % Step != 0 || l >= depthwise_strip || (Guarded && l >= valid)) continue;
        FC_UNROLL
        for (int v = 0; v < V; ++v) sum[r][s][v] = fma(A(widen(x[v])), gradient[l][v], sum[r][s][v]);
      }
    }
  }

  // The threads of a slot add up what they have, `lanes` of them side by side: each every lanes-th in turn, then by a
  // butterfly.
  FC_DEVICE void store(const DepthwiseSumsParams& p, const SumsBlock& block, const Shared<A>& scratch) const {
    constexpr int pitch = depthwise_closing_pitch(Taps), count = Taps * Taps;
    const int thread = int(threadIdx.x), all_taps = p.filter[0] * p.filter[1] * p.filter[2];
    FC_UNROLL
    for (int v = 0; v < V; ++v) {
      sync_threads();
      FC_UNROLL
      for (int j = 0; j < count; ++j) scratch.store(j * pitch + thread, sum[j / Taps][j % Taps][v]);
      sync_threads();
      const int lane = thread % p.lanes, side = depthwise_tile_threads / p.lanes;
      for (int first = 0; first < p.slots * count; first += side) {
        const int k = first + thread / p.lanes, slot = k / count, j = k % count;
        A total = 0;
        for (int i = lane; i < p.share && k < p.slots * count; i += p.lanes)
          total += scratch.load(j * pitch + (p.channels_last ? i * p.slots + slot : slot * p.share + i));
        for (int m = p.lanes / 2; m > 0; m /= 2) total += shuffle_xor(full_warp, total, m);
        const int r = block.first_tap[1] + j / Taps, s = block.first_tap[2] + j % Taps;
        const int channel = block.channel_block * p.slots * V + slot * V + v;
        const bool on = lane == 0 && k < p.slots * count && r < p.filter[1] && s < p.filter[2] && channel < p.filters;
        const int64_t o = (int64_t(block.slice) * p.filters + channel) * all_taps +
                          (block.first_tap[0] * p.filter[1] + r) * p.filter[2] + s;
        if (p.partial) {
          device::store_if(on, static_cast<A*>(p.out) + o, total);
        } else {
          device::store_if(on, static_cast<T*>(p.out) + o, narrow<T>(total));
        }
      }
    }
  }
};

template <class T, int V, int Taps, int Step>
FC_KERNEL(depthwise_tile_threads, 1)
void depthwise_sums(const FC_GRID_CONSTANT DepthwiseSumsParams p) {
  const Shared<T> x = dynamic_shared<T>(), gy = dynamic_shared<T>(p.gy_bytes);
  const SumsBlock block(p, int(blockIdx.x), Taps);
  const int thread = int(threadIdx.x);
  // Lanes run along the contiguous axis: the slots (channels last), or the places.
  const int quotient = (p.channels_last ? p.by_slots : p.by_share).divide(thread);
  const int remainder = (p.channels_last ? p.by_slots : p.by_share).remainder(thread, quotient);
  const int slot = p.channels_last ? remainder : quotient, mine = p.channels_last ? quotient : remainder;
  const bool on = slot < p.slots && mine < p.share;
  const int x_slot = V == 1 ? p.by_per.divide(slot) : slot;
  const int channel = p.channels_last ? x_slot * V : 0, gy_channel = p.channels_last ? slot * V : 0;
  for (int i = thread; i < p.x_tile.row_pitch; i += depthwise_tile_threads) x.store(i, T{});
  for (int i = thread; i < p.gy_tile.row_pitch; i += depthwise_tile_threads) gy.store(i, T{});
  TapSums<T, V, Taps, Step> sums;
  const int last = min(p.items, (block.slice + 1) * p.items_a_slice);
  for (int item = block.slice * p.items_a_slice; item < last; ++item) {
    const TileBlock x_block = block.tile(p, p.x_tile, p.channels, item, block.first_tap),
                    gy_block = block.tile(p, p.gy_tile, p.filters, item);
    sync_threads();  // the tile before has been read
    stage_patch(p.x_tile, x_block, static_cast<const T*>(p.x), p.x_strides, x + p.x_tile.row_pitch);
    stage_patch(p.gy_tile, gy_block, static_cast<const T*>(p.gy), p.gy_strides, gy + p.gy_tile.row_pitch);
    cp_async_wait<0>();
    sync_threads();
    for (int first = 0; first < p.places; first += p.share) {
      sync_warp();  // lanes that met fewer taps wait
      if (on && first + mine < p.places)
        sums.add_strip(p, block, x_block, gy_block, SumsPlace(p, first + mine, slot, x_slot), channel,
                       V == 1 ? gy_channel : channel, x, gy);
    }
  }
  sums.store(p, block, dynamic_shared<accumulator_t<T>>());
}

}  // namespace fastconv::kernels
