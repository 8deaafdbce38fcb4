// Instantiates the direct kernels of one dtype: included by direct_<dtype>.cu only.
#pragma once

#include "kernels/direct.h"
#include "kernels/direct_launch.h"

namespace fastconv::kernels {

// Calls visit(Tile<...>{}) with the tile's type.
template <class T, class Visit>
void visit_tile(DirectTile tile, Visit&& visit) {
  if constexpr (has_tile<T>(DirectTile::large)) {
    if (tile == DirectTile::large) return visit(Tile<128, 64, 8, 4>{});
  }
  if (tile == DirectTile::flat) return visit(Tile<16, 128, 4, 2>{});
  visit(Tile<64, 64, 4, 4>{});
}

template <class T>
void launch_gather(DirectTile tile, Access walk, bool filter_along_rows, const device::Launch& launch,
                   const GatherParams& params) {
  visit_tile<T>(tile, [&](auto shape) {
    using Shape = decltype(shape);
    if (walk == Access::nchw && filter_along_rows) {
      device::launch(direct_gather<GatherConfig<T, Shape, Access::nchw, true>>, launch, params);
    } else if (walk == Access::nchw) {
      device::launch(direct_gather<GatherConfig<T, Shape, Access::nchw, false>>, launch, params);
    } else if (walk == Access::nhwc) {
      device::launch(direct_gather<GatherConfig<T, Shape, Access::nhwc, false>>, launch, params);
    } else if (filter_along_rows) {
      device::launch(direct_gather<GatherConfig<T, Shape, Access::nhwc_vector, true>>, launch, params);
    } else {
      device::launch(direct_gather<GatherConfig<T, Shape, Access::nhwc_vector, false>>, launch, params);
    }
  });
}

template <class T>
void launch_wgrad(DirectTile tile, Access walk, const device::Launch& launch, const WgradParams& params) {
  visit_tile<T>(tile, [&](auto shape) {
    using Shape = decltype(shape);
    switch (walk) {
      case Access::nchw: return device::launch(direct_wgrad<WgradConfig<T, Shape, Access::nchw>>, launch, params);
      case Access::nhwc: return device::launch(direct_wgrad<WgradConfig<T, Shape, Access::nhwc>>, launch, params);
      default: return device::launch(direct_wgrad<WgradConfig<T, Shape, Access::nhwc_vector>>, launch, params);
    }
  });
}

#define FASTCONV_DIRECT_INSTANCES(T)                                                                    \
  template void launch_gather<T>(DirectTile, Access, bool, const device::Launch&, const GatherParams&); \
  template void launch_wgrad<T>(DirectTile, Access, const device::Launch&, const WgradParams&);

}  // namespace fastconv::kernels
