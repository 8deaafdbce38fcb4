// The planner's door to the tensor-core kernels: which tiles exist, and starting one. One source per dtype
// and way to multiply (igemm_f16.cu, ...) defines the functions for its T.
#pragma once

#include "device/launch.h"
#include "kernels/direct_params.h"

namespace fastconv::kernels {

enum class IgemmTile : uint8_t { large, tall, square, narrow };

struct IgemmShape {
  IgemmTile tile;
  int rows, columns, warp_rows, warp_columns, depth_bytes, stages;

  constexpr int threads() const { return 32 * (rows / warp_rows) * (columns / warp_columns); }
  // The ring of stages.
  constexpr int shared_bytes() const { return stages * depth_bytes * (rows + columns); }
};
constexpr IgemmShape igemm_tiles[] = {
    {IgemmTile::large, 128, 128, 64, 32, 128, 3},
    {IgemmTile::tall, 64, 128, 32, 32, 128, 3},
    {IgemmTile::square, 64, 64, 32, 32, 128, 3},
    {IgemmTile::narrow, 64, 64, 32, 32, 64, 4},
};
constexpr int igemm_copy_bytes[] = {16, 4, 2};
// Taps of the depth axis and the height, which share a word of validity bits, and of the width.
constexpr int igemm_depth_taps = 8, igemm_height_taps = 24, igemm_width_taps = 31;

constexpr IgemmShape shape_of(IgemmTile tile) {
  for (const IgemmShape& shape : igemm_tiles)
    if (shape.tile == tile) return shape;
  return igemm_tiles[0];
}

// The narrow tile has the copies of less than 16 bytes, none below an element; the others those of 16. It is as large
// as the square one and half as deep: as many copies again would take a thread's registers. So would tf32x3's products:
// in that it is the square tile.
template <class T>
constexpr bool has_copy(IgemmTile tile, int bytes, Math math) {
  if (tile == IgemmTile::narrow) return math == Math::tf32x3 ? bytes >= 4 : bytes < 16 && bytes >= int(sizeof(T));
  return bytes == 16 && (math != Math::tf32x3 || tile != IgemmTile::square);
}

// tf32x3 takes twice the registers.
constexpr bool has_math(IgemmTile tile, Math math) { return math != Math::tf32x3 || tile != IgemmTile::large; }

// `Products`: ieee for 16-bit types, tf32 or tf32x3 for float.
template <class T, Math Products>
void launch_igemm_gather(IgemmTile tile, int copy_bytes, const device::Launch& launch, const GatherParams& params);
template <class T, Math Products>
void launch_igemm_wgrad(IgemmTile tile, int copy_bytes, const device::Launch& launch, const WgradParams& params);
// The same on channels first, pointwise (igemm_planes.h): in whole copies, but by elements in the narrow tile.
template <class T, Math Products>
void launch_planes_gather(IgemmTile tile, const device::Launch& launch, const GatherParams& params);
template <class T, Math Products>
void launch_planes_wgrad(IgemmTile tile, const device::Launch& launch, const WgradParams& params);

}  // namespace fastconv::kernels
