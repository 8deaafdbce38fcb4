// Instantiates the tensor-core kernels of one dtype and way to multiply: included by igemm_<name>.cu only.
#pragma once

#include "kernels/igemm_launch.h"
#include "kernels/igemm_planes.h"
#include "kernels/implicit_gemm.h"

namespace fastconv::kernels {

template <IgemmTile tile>
using TilingOf = WarpTiling<shape_of(tile).rows, shape_of(tile).columns, shape_of(tile).warp_rows,
                            shape_of(tile).warp_columns, shape_of(tile).depth_bytes, shape_of(tile).stages>;

// Calls visit(WarpTiling<...>{}, std::integral_constant<int, copy bytes>{}).
template <class T, Math Products, class Visit>
void visit_igemm(IgemmTile tile, int copy_bytes, Visit&& visit) {
  using Wide = std::integral_constant<int, 16>;
  if constexpr (has_math(IgemmTile::large, Products)) {
    if (tile == IgemmTile::large) return visit(TilingOf<IgemmTile::large>{}, Wide{});
  }
  if (tile == IgemmTile::tall) return visit(TilingOf<IgemmTile::tall>{}, Wide{});
  if constexpr (has_copy<T>(IgemmTile::square, 16, Products)) {
    if (tile == IgemmTile::square) return visit(TilingOf<IgemmTile::square>{}, Wide{});
  }
  if constexpr (has_copy<T>(IgemmTile::narrow, 16, Products)) {
    if (copy_bytes == 16) return visit(TilingOf<IgemmTile::narrow>{}, Wide{});
  }
  if constexpr (has_copy<T>(IgemmTile::narrow, 2, Products)) {
    if (copy_bytes == 2) return visit(TilingOf<IgemmTile::narrow>{}, std::integral_constant<int, 2>{});
  }
  visit(TilingOf<IgemmTile::narrow>{}, std::integral_constant<int, 4>{});
}

template <class T, Math Products>
void launch_igemm_gather(IgemmTile tile, int copy_bytes, const device::Launch& launch, const GatherParams& params) {
  visit_igemm<T, Products>(tile, copy_bytes, [&](auto tiling, auto bytes) {
    using Tiling = decltype(tiling);
    if (params.transposed) {
      device::launch(igemm_gather<IgemmGather<T, Products, Tiling, true, decltype(bytes)::value>>, launch, params);
    } else {
      device::launch(igemm_gather<IgemmGather<T, Products, Tiling, false, decltype(bytes)::value>>, launch, params);
    }
  });
}

template <class T, Math Products>
void launch_igemm_wgrad(IgemmTile tile, int copy_bytes, const device::Launch& launch, const WgradParams& params) {
  visit_igemm<T, Products>(tile, copy_bytes, [&](auto tiling, auto bytes) {
    device::launch(igemm_wgrad<IgemmWgrad<T, Products, decltype(tiling), decltype(bytes)::value>>, launch, params);
  });
}

// Calls visit(WarpTiling<...>{}, std::integral_constant<int, copy bytes>{}).
template <class T, Math Products, class Visit>
void visit_planes(IgemmTile tile, Visit&& visit) {
  using Element = std::integral_constant<int, int(sizeof(T))>;
  using Four = std::integral_constant<int, 4 * int(sizeof(T))>;
  if constexpr (has_math(IgemmTile::large, Products)) {
    if (tile == IgemmTile::large) return visit(TilingOf<IgemmTile::large>{}, Four{});
  }
  if (tile == IgemmTile::tall) return visit(TilingOf<IgemmTile::tall>{}, Four{});
  visit(TilingOf<IgemmTile::narrow>{}, Element{});
}

template <class T, Math Products>
void launch_planes_gather(IgemmTile tile, const device::Launch& launch, const GatherParams& params) {
  visit_planes<T, Products>(tile, [&](auto tiling, auto bytes) {
    using Tiling = decltype(tiling);
    if (params.transposed) {
      device::launch(igemm_gather<IgemmPlanes<T, Products, Tiling, true, decltype(bytes)::value>>, launch, params);
    } else {
      device::launch(igemm_gather<IgemmPlanes<T, Products, Tiling, false, decltype(bytes)::value>>, launch, params);
    }
  });
}

template <class T, Math Products>
void launch_planes_wgrad(IgemmTile tile, const device::Launch& launch, const WgradParams& params) {
  visit_planes<T, Products>(tile, [&](auto tiling, auto bytes) {
    device::launch(igemm_wgrad<IgemmPlanesWgrad<T, Products, decltype(tiling), decltype(bytes)::value>>, launch,
                   params);
  });
}

#define FASTCONV_IGEMM_INSTANCES(T, math)                                                                 \
  template void launch_igemm_gather<T, math>(IgemmTile, int, const device::Launch&, const GatherParams&); \
  template void launch_igemm_wgrad<T, math>(IgemmTile, int, const device::Launch&, const WgradParams&);   \
  template void launch_planes_gather<T, math>(IgemmTile, const device::Launch&, const GatherParams&);     \
  template void launch_planes_wgrad<T, math>(IgemmTile, const device::Launch&, const WgradParams&);

}  // namespace fastconv::kernels
