// Instantiates the pooling kernels of one dtype: included by pool_<dtype>.cu only.
#pragma once

#include "kernels/pool.h"
#include "kernels/pool_global.h"
#include "kernels/pool_march.h"
#include "kernels/pool_staged.h"
#include "kernels/unpool.h"

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

template <class T, bool Wide>
void launch_staged_of(PoolWork work, bool average, const device::Launch& launch, const StagedPoolParams& params) {
  if (work == PoolWork::forward) {
    if (average) return device::launch(pool_staged<T, Wide, true>, launch, params);
    return device::launch(pool_staged<T, Wide, false>, launch, params);
  }
  if (average) return device::launch(pool_staged_backward<T, uint8_t, Wide, true>, launch, params);
  if (params.pool.wide_offsets) return device::launch(pool_staged_backward<T, int, Wide, false>, launch, params);
  device::launch(pool_staged_backward<T, uint8_t, Wide, false>, launch, params);
}

template <class T>
void launch_staged_pool(PoolWork work, bool average, bool vectors, const device::Launch& launch,
                        const StagedPoolParams& params) {
  if (vectors) return launch_staged_of<T, true>(work, average, launch, params);
  launch_staged_of<T, false>(work, average, launch, params);
}

template <class T>
void launch_march_pool(PoolWork work, bool average, const device::Launch& launch, const MarchPoolParams& params) {
  if (work == PoolWork::forward) {
    if (average) return device::launch(pool_march<T, true>, launch, params);
    return device::launch(pool_march<T, false>, launch, params);
  }
  if (average) return device::launch(pool_march_backward<T, true>, launch, params);
  device::launch(pool_march_backward<T, false>, launch, params);
}

template <class T>
void launch_unpool(bool pick, const device::Launch& launch, const UnpoolParams& params) {
  if (pick) return device::launch(pool_pick<T>, launch, params);
  if (params.channels > 1) return device::launch(pool_unpool_pixels<T>, launch, params);
  device::launch(pool_unpool_planes<T>, launch, params);
}

template <class T, bool Planar, bool Wide>
void launch_global_of(bool average, const device::Launch& launch, const GlobalPoolParams& params) {
  if (average) return device::launch(pool_global<T, Planar, Wide, true>, launch, params);
  device::launch(pool_global<T, Planar, Wide, false>, launch, params);
}

template <class T>
void launch_global_pool(bool average, bool vectors, bool planar, const device::Launch& launch,
                        const GlobalPoolParams& params) {
  if (planar)
    return vectors ? launch_global_of<T, true, true>(average, launch, params)
                   : launch_global_of<T, true, false>(average, launch, params);
  vectors ? launch_global_of<T, false, true>(average, launch, params)
          : launch_global_of<T, false, false>(average, launch, params);
}

#define FASTCONV_POOL_INSTANCES(T)                                                                           \
  template void launch_pool<T>(PoolWork, bool, bool, const device::Launch&, const PoolParams&);              \
  template void launch_staged_pool<T>(PoolWork, bool, bool, const device::Launch&, const StagedPoolParams&); \
  template void launch_march_pool<T>(PoolWork, bool, const device::Launch&, const MarchPoolParams&);         \
  template void launch_global_pool<T>(bool, bool, bool, const device::Launch&, const GlobalPoolParams&);     \
  template void launch_unpool<T>(bool, const device::Launch&, const UnpoolParams&);

}  // namespace fastconv::kernels
