// What the depthwise-separable kernel is told, and the planner's door to it.
#pragma once

#include "kernels/depthwise_tile_params.h"

namespace fastconv::kernels {

// A block's output positions, the output channels that its warps take at a time, and the ring of stages of the
// pointwise filter.
enum class SeparableTile : uint8_t { positions_64, positions_128 };

struct SeparableShape {
  SeparableTile tile;
  int rows, positions, warp_rows, warp_columns, stages;

  static constexpr int depth_bytes = 128;
  constexpr int warps() const { return (rows / warp_rows) * (positions / warp_columns); }
  // A warp's lines on their way out, see igemm_epilogue.h.
  constexpr int scratch_bytes() const { return warps() * 8 * (warp_rows + 4) * 4; }
  constexpr int ring_bytes() const { return stages * rows * depth_bytes; }
  // A chunk of z: as deep as a stage.
  constexpr int chunk_bytes() const { return positions * depth_bytes; }
};
constexpr SeparableShape separable_tiles[] = {
    {SeparableTile::positions_64, 64, 64, 32, 32, 3},
    {SeparableTile::positions_128, 64, 128, 32, 64, 3},
};
constexpr SeparableShape shape_of(SeparableTile tile) { return separable_tiles[int(tile)]; }

// Copies of single elements exist for the smaller tile only.
constexpr bool has_copy(SeparableTile tile, int bytes) { return bytes == 16 || tile == SeparableTile::positions_64; }

// Rows of the filter in one pass over a strip, for a filter that had better take `best` (depthwise_strip_taps): those
// that layers of bench/networks.py ask for. Copies of single elements, which none of them needs, have the least.
constexpr int separable_strip_taps(int best, bool narrow) { return narrow ? 3 : best < 5 ? best : 5; }

struct SeparableParams {
  DepthwiseTiledParams depthwise;  // of one chunk of channels; by_slab and out_pitch say where z has a position
  GatherParams pointwise;          // filter, bias, residual, out; its rows are the output channels
  int64_t out_sample;              // from a sample of the output to the next
  int chunks;                      // of the channels
  bool piecewise;                  // z's activation: is_piecewise
  // The grid is tiles * splits; a block computes `row_tiles` tiles of output channels.
  int row_tiles;
  Divisor by_splits;
  // Shared memory: two buffers of filters and patch, which the epilogue's scratch and the ring overlay later; then z.
  int buffer_bytes, z_bytes;
};

// `copy_bytes`: of the pointwise filter, 16 or an element.
template <class T>
void launch_separable(SeparableTile tile, int copy_bytes, int strip_taps, int step, const device::Launch& launch,
                      const SeparableParams& params);

}  // namespace fastconv::kernels
