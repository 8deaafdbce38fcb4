// Depthwise-separable convolution in one launch, channels last: what lies between its parts, z, never leaves the chip.
//
//      patch 0   patch 1   patch 0         1. For one chunk of channels after the other: the source of the block's
//     +-------+ +-------+ +-------+           positions comes into shared memory (depthwise_tile.h), a chunk ahead;
//     | depthwise, bias, activation |         strips of outputs (depthwise_tiled.h) become z, rounded as if stored, and
//     +-------+ +-------+ +-------+           lie where ldmatrix will read them.
//     | z   0 | | z   1 | | z   2 |
//     +-------+ +-------+ +-------+        2. A tile of output channels after the other: its filter streams through a
//   w |  mma  | |  mma  | |  mma  | -> y      ring of stages (implicit_gemm.h), z stays. While one tile is stored, the
//     +-------+ +-------+ +-------+           copies of the next are under way.
//
// z is chunks x positions x 128 bytes. Blocks of one SM are in different phases: CUDA cores and tensor cores overlap.
// Traffic: the source once and the halo, the result once, the filters from L2; sums in the order of the two launches.
#pragma once

#include "kernels/depthwise_tiled.h"
#include "kernels/igemm_epilogue.h"
#include "kernels/igemm_operands.h"
#include "kernels/separable_params.h"

namespace fastconv::kernels {

template <class T, class Tiling, int Bytes>
struct SeparableConfig : IgemmConfig<T, Math::ieee, Tiling> {
  using LeftTile = SharedTile<T, Tiling::rows, Major::depth, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::depth, Tiling::depth_bytes>;
  using Left = FilterRows<TileCopy<LeftTile, Tiling::threads, Bytes>, true>;
  using Scratch = LineScratch<T, true, Tiling::warp_rows>;
  static constexpr int channels = RightTile::depth, vector = depthwise_vector<T>;
  static constexpr int scratch_bytes = Tiling::threads / 32 * Scratch::elements * int(sizeof(float));
  static_assert(Tiling::threads == depthwise_tile_threads && channels == 32 * vector,
                "a warp takes a position, or two");
};

// ---- depthwise: from the source to z ----

// Where a strip's results lie in a chunk of z.
template <class Config>
struct BetweenPlace {
  using T = typename Config::T;
  int first_row, h, pitch, spacing, tile, byte;

  FC_DEVICE BetweenPlace(const DepthwiseTiledParams& p, const StripPlace& place)
      : first_row(place.plane * p.out_pitch + place.slice * int(p.by_slab.value) + place.column),
        h(place.position),
        pitch(p.tile.axis[2].tile),
        spacing(p.tile.axis[1].spacing),
        tile(p.tile.axis[1].tile),
        byte(place.channel * int(sizeof(T))) {}

  // The results follow one another.
  FC_DEVICE void store_next(const SharedBytes& z, const Vec<float, Config::vector>& values) {
    const int at = Config::RightTile::at(first_row + h * pitch, byte / 16) + byte % 16;
    if (h < tile) z.template store_as<Vec<T, Config::vector>>(at, Epilogue<T>::narrowed(values));
    h += spacing;
  }
};

// A strip's results become a part of z. A piecewise activation is one branch for all of them; of the others' long code
// there is one copy: as in Strip::finish, that loop is not unrolled and the sums move up.
template <class Config, class Strip>
FC_DEVICE void put_between(const DepthwiseTiledParams& p, bool piecewise, int first_channel, const StripPlace& place,
                           Strip& strip, const SharedBytes& z) {
  using T = typename Config::T;
  constexpr int V = Config::vector;
  const Epilogue<T> epilogue(p.gather, 0);
  const int c = first_channel + place.channel;
  Vec<float, V> values;
  if (epilogue.bias) {
    FC_UNROLL
    for (int v = 0; v < V; ++v) {
      const float bias = widen(load_if(c + v < p.tile.channels, epilogue.bias + c + v));
      FC_UNROLL
      for (int l = 0; l < depthwise_strip; ++l) strip.sum[l][v] += bias;
    }
  }
  BetweenPlace<Config> to(p, place);
  if (piecewise) {
    activate_piecewise(&strip.sum[0][0], depthwise_strip * V, epilogue.activation, epilogue.slope);
    FC_UNROLL
    for (int l = 0; l < depthwise_strip; ++l) {
      FC_UNROLL
      for (int v = 0; v < V; ++v) values[v] = strip.sum[l][v];
      to.store_next(z, values);
    }
    return;
  }
  FC_NO_UNROLL
  for (int l = 0; l < depthwise_strip; ++l) {
    FC_UNROLL
    for (int v = 0; v < V; ++v) values[v] = strip.sum[0][v];
    activate(values.v, V, epilogue.activation, epilogue.slope);
    to.store_next(z, values);
    FC_UNROLL
    for (int m = 1; m < depthwise_strip; ++m) {
      FC_UNROLL
      for (int v = 0; v < V; ++v) strip.sum[m - 1][v] = strip.sum[m][v];
    }
  }
}

template <class Config, int Taps, int Step>
FC_DEVICE void fill_between(const SeparableParams& params, TileBlock block, const SharedBytes& z) {
  using T = typename Config::T;
  constexpr int V = Config::vector;
  const DepthwiseTiledParams& p = params.depthwise;
  const auto filters = [&](int chunk) { return dynamic_shared<float>(chunk % 2 * params.buffer_bytes); };
  const auto patch = [&](int chunk) { return dynamic_shared<T>(chunk % 2 * params.buffer_bytes + p.patch_bytes); };
  const auto stage = [&](int chunk) {
    block.first_channel = chunk * Config::channels;
    stage_patch(p.tile, block, static_cast<const T*>(p.gather.source), p.gather.source_strides,
                patch(chunk) + p.tile.row_pitch);
    stage_filters<T, V>(p, block, filters(chunk));
  };
  for (int chunk = 0; chunk < min(2, params.chunks); ++chunk)
    for (int i = int(threadIdx.x); i < p.tile.row_pitch; i += Config::threads) patch(chunk).store(i, T{});
  if (p.tile.chunk < Config::channels) {  // few channels: they do not fill the stage
    for (int i = int(threadIdx.x) * 16; i < Config::RightTile::bytes; i += Config::threads * 16)
      z.template store_as<Vec<uint32_t, 4>>(i, {});
  }
  stage(0);
  FC_NO_UNROLL
  for (int chunk = 0; chunk < params.chunks; ++chunk) {
    if (chunk + 1 < params.chunks) {
      stage(chunk + 1);
    } else {
      cp_async_commit();
    }
    cp_async_wait<1>();
    sync_threads();
    const SharedBytes into = z + chunk * Config::RightTile::bytes;
    FC_NO_UNROLL
    for (int i = int(threadIdx.x); i < p.work; i += Config::threads) {
      const StripPlace place(p, i, V);
      Strip<T, V, Taps, Step> strip;
      strip.accumulate(p, block, place, place.channel, patch(chunk),
                       {filters(chunk), place.channel / V * p.filter_pitch, p.filters / V * p.filter_pitch});
      put_between<Config>(p, params.piecewise, chunk * Config::channels, place, strip, into);
    }
    sync_threads();  // the patch is filled anew, or gives way to the ring
  }
}

// ---- pointwise: from z to the result ----

// Where the output has a position of the tile; -1: nowhere.
FC_DEVICE int64_t output_offset(const SeparableParams& params, const TileBlock& block, int position) {
  const DepthwiseTiledParams& p = params.depthwise;
  const int slab = p.by_slab.divide(position), rest = p.by_slab.remainder(position, slab);
  const int plane = p.by_depth.divide(slab), row = p.by_columns.divide(rest);
  const int at[3] = {p.by_depth.remainder(slab, plane), row, p.by_columns.remainder(rest, row)};
  bool inside = plane < block.planes;
  int64_t offset = (block.first_plane + plane) * params.out_sample;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    const int out = block.out_first[i] + at[i];
    inside = inside && out < p.tile.axis[i].out_extent;
    offset += out * params.pointwise.out_strides.axis[i];
  }
  return inside ? offset : int64_t(-1);
}

template <class Config>
FC_DEVICE void store_rows(const SeparableParams& params, const TileBlock& block, int first_row,
                          const typename Config::Sums& sums) {
  using T = typename Config::T;
  using Tiling = typename Config::Tiling;
  const GatherParams& p = params.pointwise;
  const int first = first_row + Tiling::first_row();
  const auto row_offset = [&](int row) { return first + row < p.rows ? int64_t(first + row) : int64_t(-1); };
  const auto column_offset = [&](int i) { return output_offset(params, block, Tiling::first_column() + i); };
  store_lines<true, T, Tiling>(sums, static_cast<T*>(p.out), Epilogue<T>(p, first), p.vector_stores, row_offset,
                               column_offset);
}

template <class Config>
FC_DEVICE void mix_channels(const SeparableParams& params, const TileBlock& block, int first_tile,
                            const SharedBytes& z) {
  using T = typename Config::T;
  using Tiling = typename Config::Tiling;
  using LeftTile = typename Config::LeftTile;
  using RightTile = typename Config::RightTile;
  constexpr int stages = Tiling::stages;
  const GatherParams& p = params.pointwise;
  const int last_tile = min(first_tile + params.row_tiles, ceil_div(p.rows, Tiling::rows));
  const SharedBytes ring = dynamic_shared<unsigned char>(Config::scratch_bytes);
  const auto filter = [&](int tile) {
    return typename Config::Left(static_cast<const T*>(p.filter), unsigned(p.filter_row), tile * Tiling::rows, p.rows,
                                 p.channels);
  };
  // The copies run ahead of the products, from tile to tile.
  int slot = 0, next_tile = first_tile, next_chunk = 0;
  auto left = filter(first_tile);
  const auto fetch = [&] {
    if (next_tile < last_tile) {
      left.fetch(ring + slot);
      if (++next_chunk == params.chunks) next_chunk = 0, left = filter(++next_tile);
    }
    cp_async_commit();
    slot = slot == (stages - 1) * LeftTile::bytes ? 0 : slot + LeftTile::bytes;
  };
  FC_NO_UNROLL
  for (int stage = 0; stage < stages - 1; ++stage) fetch();
  const typename Config::Sums::template LeftFragments<LeftTile> left_part(Tiling::first_row());
  const typename Config::Sums::template RightFragments<RightTile> right_part(Tiling::first_column());
  FC_NO_UNROLL
  for (int tile = first_tile; tile < last_tile; ++tile) {
    typename Config::Sums sums;
    FC_NO_UNROLL
    for (int chunk = 0; chunk < params.chunks; ++chunk) {
      cp_async_wait<stages - 2>();
      sync_threads();
      fetch();
      sums.multiply(left_part, right_part, ring + slot, z + chunk * RightTile::bytes);
    }
    store_rows<Config>(params, block, tile * Tiling::rows, sums);
  }
}

template <class Config, int Taps, int Step>
FC_KERNEL(Config::threads, 1)
void separable(const FC_GRID_CONSTANT SeparableParams p) {
  const int tile = p.by_splits.divide(int(blockIdx.x)), split = p.by_splits.remainder(int(blockIdx.x), tile);
  const TileBlock block(p.depthwise.tile, tile);
  const SharedBytes z = dynamic_shared<unsigned char>(p.z_bytes);
  fill_between<Config, Taps, Step>(p, block, z);
  mix_channels<Config>(p, block, split * p.row_tiles, z);
}

}  // namespace fastconv::kernels
