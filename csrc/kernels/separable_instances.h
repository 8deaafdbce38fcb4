// Instantiates the depthwise-separable kernels of one dtype: included by separable_<dtype>.cu only.
#pragma once

#include "kernels/depthwise_tiled_instances.h"
#include "kernels/separable.h"

namespace fastconv::kernels {

template <SeparableTile tile>
using SeparableTiling = WarpTiling<shape_of(tile).rows, shape_of(tile).positions, shape_of(tile).warp_rows,
                                   shape_of(tile).warp_columns, SeparableShape::depth_bytes, shape_of(tile).stages>;

template <class T>
void launch_separable(SeparableTile tile, int copy_bytes, int strip_taps, int step, const device::Launch& launch,
                      const SeparableParams& params) {
  visit_strips(strip_taps, step, [&](auto taps, auto stride) {
    const auto with = [&](auto constant, auto bytes) {
      constexpr SeparableTile which = decltype(constant)::value;
      using Config = SeparableConfig<T, SeparableTiling<which>, decltype(bytes)::value>;
      static_assert(Config::scratch_bytes == shape_of(which).scratch_bytes());
      device::launch(separable<Config, decltype(taps)::value, decltype(stride)::value>, launch, params);
    };
    using Small = std::integral_constant<SeparableTile, SeparableTile::positions_64>;
    using Large = std::integral_constant<SeparableTile, SeparableTile::positions_128>;
    if (tile == SeparableTile::positions_128) return with(Large{}, std::integral_constant<int, 16>{});
    if (copy_bytes == 16) return with(Small{}, std::integral_constant<int, 16>{});
    with(Small{}, std::integral_constant<int, int(sizeof(T))>{});
  });
}

#define FASTCONV_SEPARABLE_INSTANCES(T) \
  template void launch_separable<T>(SeparableTile, int, int, int, const device::Launch&, const SeparableParams&);

}  // namespace fastconv::kernels
