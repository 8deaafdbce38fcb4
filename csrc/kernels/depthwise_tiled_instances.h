// Instantiates the tiled depthwise kernels of one dtype: included by depthwise_tiled_<dtype>.cu only.
#pragma once

#include "kernels/depthwise_sums.h"
#include "kernels/depthwise_tiled.h"

namespace fastconv::kernels {

// run(taps, step), as constants.
template <class Run>
void visit_strips(int taps, int step, Run run) {
  const auto with_taps = [&](auto constant) {
    if (step == 1) return run(constant, std::integral_constant<int, 1>());
    run(constant, std::integral_constant<int, 2>());
  };
  if (taps == 3) return with_taps(std::integral_constant<int, 3>());
  if (taps == 5) return with_taps(std::integral_constant<int, 5>());
  with_taps(std::integral_constant<int, 7>());
}

// run(channels that a thread takes), as a constant.
template <class T, class Run>
void visit_vector(bool vectors, Run run) {
  if (vectors) return run(std::integral_constant<int, depthwise_vector<T>>());
  run(std::integral_constant<int, 1>());
}

template <class T>
void launch_depthwise_tiled(bool vectors, int strip_taps, int step, const device::Launch& launch,
                            const DepthwiseTiledParams& params) {
  visit_vector<T>(vectors, [&](auto v) {
    visit_strips(strip_taps, step, [&](auto taps, auto stride) {
      device::launch(depthwise_tiled<T, decltype(v)::value, decltype(taps)::value, decltype(stride)::value>, launch,
                     params);
    });
  });
}

template <class T>
void launch_depthwise_sums(bool vectors, int taps, int step, const device::Launch& launch,
                           const DepthwiseSumsParams& params) {
  visit_vector<T>(vectors, [&](auto v) {
    visit_strips(taps, step, [&](auto some, auto stride) {
      device::launch(depthwise_sums<T, decltype(v)::value, decltype(some)::value, decltype(stride)::value>, launch,
                     params);
    });
  });
}

#define FASTCONV_DEPTHWISE_TILED_INSTANCES(T)                                                                  \
  template void launch_depthwise_tiled<T>(bool, int, int, const device::Launch&, const DepthwiseTiledParams&); \
  template void launch_depthwise_sums<T>(bool, int, int, const device::Launch&, const DepthwiseSumsParams&);

}  // namespace fastconv::kernels
