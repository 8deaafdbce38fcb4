// Shared by the GPU tables: see gpu_conv.cpp, gpu_pool.cpp.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "device/launch.h"
#include "device/scope.h"
#include "fastconv/plan.h"
#include "kernels/direct_params.h"

namespace fastconv::planner {

constexpr int64_t largest_coordinate = (int64_t(1) << 30) - 1;
constexpr int64_t largest_grid = (int64_t(1) << 31) - 1;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Element strides of a dense tensor with `channels` channels in groups of `channels / groups`.
inline kernels::Strides strides_of(Layout layout, int64_t channels, int64_t groups, const Axes& extent) {
  kernels::Strides s;
  const bool last = layout == Layout::nhwc;
  s.axis[2] = last ? channels : 1;
  s.axis[1] = s.axis[2] * extent[2];
  s.axis[0] = s.axis[1] * extent[1];
  s.channel = last ? 1 : volume(extent);
  s.group = s.channel * (channels / groups);
  s.batch = channels * volume(extent);
  return s;
}

inline bool aligned(const void* address, int64_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

inline device::Launch one_dimensional(const char* kernel, int64_t blocks, unsigned threads, void* stream) {
  return {kernel, {unsigned(blocks)}, {threads}, 0, stream, {}};
}

// Names the memory of a launch; nothing on the GPU.
inline void name_regions(device::Launch& launch, std::initializer_list<device::Region> regions) {
  if constexpr (device::checks_regions) {
    for (const auto& region : regions)
      if (region.address) launch.regions.push_back(region);
  }
}

std::vector<Kernel<ConvProblem>> direct_conv_kernels();     // gpu_conv.cpp
std::vector<Kernel<PoolProblem>> direct_pool_kernels();     // gpu_pool.cpp
std::vector<Kernel<SeparableProblem>> separable_entries();  // gpu_separable.cpp

}  // namespace fastconv::planner
