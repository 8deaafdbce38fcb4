// The planner's door to the direct kernels: which instances exist, and starting one. Host code; one source per dtype
// (direct_f32.cu, ...) defines the functions for its T.
#pragma once

#include <type_traits>

#include "device/launch.h"
#include "kernels/direct_params.h"

namespace fastconv::kernels {

enum class DirectTile : uint8_t { square, flat, large };

struct TileShape {
  DirectTile tile;
  int rows, columns;
};
constexpr int direct_depth = 16, direct_threads = 256;
// Every tile, and the dtypes that have it: `large` spills in float64, and 16-bit types have no use for it.
constexpr TileShape direct_tiles[] = {
    {DirectTile::square, 64, 64}, {DirectTile::flat, 16, 128}, {DirectTile::large, 128, 64}};
template <class T>
constexpr bool has_tile(DirectTile tile) {
  return tile != DirectTile::large || std::is_same_v<T, float>;
}

// `filter_along_rows` (dgrad where the filter's rows are contiguous) goes with Access::nchw and nhwc_vector.
template <class T>
void launch_gather(DirectTile tile, Access walk, bool filter_along_rows, const device::Launch& launch,
                   const GatherParams& params);
template <class T>
void launch_wgrad(DirectTile tile, Access walk, const device::Launch& launch, const WgradParams& params);

}  // namespace fastconv::kernels
