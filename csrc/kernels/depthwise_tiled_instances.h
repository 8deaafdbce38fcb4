// Instantiates the tiled depthwise kernels of one dtype: included by depthwise_tiled_<dtype>.cu only.
#pragma once

#include "kernels/depthwise_tiled.h"

namespace fastconv::kernels {

template <class T, int V>
void launch_depthwise_strips(int strip_taps, int step, const device::Launch& launch,
                             const DepthwiseTiledParams& params) {
  const auto run = [&](auto taps) {
    constexpr int count = decltype(taps)::value;
    if (step == 1) return device::launch(depthwise_tiled<T, V, count, 1>, launch, params);
    device::launch(depthwise_tiled<T, V, count, 2>, launch, params);
  };
  if (strip_taps == 3) return run(std::integral_constant<int, 3>());
  if (strip_taps == 5) return run(std::integral_constant<int, 5>());
  run(std::integral_constant<int, 7>());
}

template <class T>
void launch_depthwise_tiled(bool vectors, int strip_taps, int step, const device::Launch& launch,
                            const DepthwiseTiledParams& params) {
  if constexpr (depthwise_vector<T> > 1) {
    if (vectors) return launch_depthwise_strips<T, depthwise_vector<T>>(strip_taps, step, launch, params);
  }
  launch_depthwise_strips<T, 1>(strip_taps, step, launch, params);
}

#define FASTCONV_DEPTHWISE_TILED_INSTANCES(T) \
  template void launch_depthwise_tiled<T>(bool, int, int, const device::Launch&, const DepthwiseTiledParams&);

}  // namespace fastconv::kernels
