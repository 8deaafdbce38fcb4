// What the reduction kernels are told: see reduce.h.
#pragma once

#include <cstdint>

#include "device/launch.h"

namespace fastconv::kernels {

// out[i] = narrow(sum over slices s, in their order, of partial[s][i])
struct SliceParams {
  const void* partial;
  void* out;
  int64_t elements;
  int slices;
};

// Sums of gy over samples and positions, a slice of them: partial[slice][k], or out[k] where there is one slice.
struct BiasParams {
  const void* gy;
  void* out;
  bool partial;
  bool channels_last;
  bool vector_loads;
  int64_t channels, batch, positions;  // positions of one sample
  int slices;
  int64_t slice_length;  // channels_last: (sample, position) pairs; else vectors of one channel
};

constexpr int reduce_threads = 256;

template <class T>
void launch_slices(const device::Launch& launch, const SliceParams& params);
template <class T>
void launch_bias(const device::Launch& launch, const BiasParams& params);

}  // namespace fastconv::kernels
