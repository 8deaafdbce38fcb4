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
  const auto with = [&](auto constant, auto bytes, auto taps) {
    constexpr SeparableTile which = decltype(constant)::value;
    using Config = SeparableConfig<T, SeparableTiling<which>, decltype(bytes)::value>;
    static_assert(Config::scratch_bytes == shape_of(which).scratch_bytes());
    constexpr int rows = decltype(taps)::value;
    if (step == 1) return device::launch(separable<Config, rows, 1>, launch, params);
    device::launch(separable<Config, rows, 2>, launch, params);
  };
  using Small = std::integral_constant<SeparableTile, SeparableTile::positions_64>;
  using Large = std::integral_constant<SeparableTile, SeparableTile::positions_128>;
  using Three = std::integral_constant<int, 3>;
  const auto vectors = [&](auto constant) {
    const std::integral_constant<int, 16> bytes;
    if (strip_taps == 3) return with(constant, bytes, Three{});
    with(constant, bytes, std::integral_constant<int, 5>{});
  };
  if (copy_bytes != 16) return with(Small{}, std::integral_constant<int, int(sizeof(T))>{}, Three{});
  if (tile == SeparableTile::positions_64) return vectors(Small{});
  vectors(Large{});
}

#define FASTCONV_SEPARABLE_INSTANCES(T) \
  template void launch_separable<T>(SeparableTile, int, int, int, const device::Launch&, const SeparableParams&);

}  // namespace fastconv::kernels
