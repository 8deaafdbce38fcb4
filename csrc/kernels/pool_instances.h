// Instantiates the pooling kernels of one dtype: included by pool_<dtype>.cu only.
#pragma once

#include "kernels/pool.h"
#include "kernels/pool_staged.h"

namespace fastconv::kernels {

template <class T, int V>
void launch_pool_of(PoolWork work, bool average, const device::Launch& launch, const PoolParams& params) {
  switch (work) {
    case PoolWork::forward:
      if (average) return device::launch(pool_forward<T, V, true>, launch, params);
      return device::launch(pool_forward<T, V, false>, launch, params);
    case PoolWork::backward:
      if (average) return device::launch(pool_backward<T, V, true>, launch, params);
      return device::launch(pool_backward<T, V, false>, launch, params);
    default: device::launch(pool_gather<T, V>, launch, params);
  }
}

template <class T>
void launch_pool(PoolWork work, bool average, bool vectors, const device::Launch& launch, const PoolParams& params) {
  if (vectors) return launch_pool_of<T, pool_vector<T>>(work, average, launch, params);
  launch_pool_of<T, 1>(work, average, launch, params);
}

template <class T>
void launch_staged_pool(bool average, bool vectors, const device::Launch& launch, const StagedPoolParams& params) {
  constexpr int V = pool_vector<T>;
  if (average && vectors) return device::launch(pool_staged<T, V, true>, launch, params);
  if (average) return device::launch(pool_staged<T, 1, true>, launch, params);
  if (vectors) return device::launch(pool_staged<T, V, false>, launch, params);
  device::launch(pool_staged<T, 1, false>, launch, params);
}

#define FASTCONV_POOL_INSTANCES(T)                                                              \
  template void launch_pool<T>(PoolWork, bool, bool, const device::Launch&, const PoolParams&); \
  template void launch_staged_pool<T>(bool, bool, const device::Launch&, const StagedPoolParams&);

}  // namespace fastconv::kernels
