// Max-unpooling and its derivative.
//
//   unpool   dst = 0, then dst[index] = src for the outputs of a plane, in their order: of equal indices the last wins,
//            always. Channels first, a warp owns a plane: it takes 32 outputs at a time, and among them a lane gives
//            way to a later one with its index. Channels last, a lane owns a plane. Nobody else writes there, so
//            nothing is atomic.
//   pick     dst[o] = src[index of o], a thread each.
//
// An index outside the plane is never followed: it writes nothing, and picks 0.
// Traffic: src, indices, dst once; the scattered ones by sectors.
#pragma once

#include "device/device.h"
#include "kernels/pool_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

template <class T>
FC_KERNEL(pool_threads, 1)
void pool_unpool_planes(const FC_GRID_CONSTANT UnpoolParams p) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t plane = int64_t(blockIdx.x) * (pool_threads / 32) + int(threadIdx.x) / 32;
  if (plane >= p.pieces) return;
  T* const dst = static_cast<T*>(p.dst) + plane * p.large;
  for (int i = lane; i < p.large; i += 32) store(dst + i, narrow<T>(accumulator_t<T>(0)));
  for (int first = 0; first < p.small; first += 32) {
    const int o = first + lane;
    const bool on = o < p.small;
    const int64_t index = load_if(on, p.indices + plane * p.small + o, int64_t(-1));
    const T value = load_if(on, static_cast<const T*>(p.src) + plane * p.small + o);
    const bool inside = index >= 0 && index < p.large;
    const int mine = inside ? int(index) : -1;
    bool last = inside;
    for (int i = 1; i < 32; ++i) {
      const int other = shuffle(full_warp, mine, (lane + i) % 32);
      if (lane + i < 32 && other == mine) last = false;
    }
    sync_warp();  // what was stored before comes first
    store_if(last, dst + max(mine, 0), value);
  }
}

template <class T>
FC_KERNEL(pool_threads, 1)
void pool_unpool_pixels(const FC_GRID_CONSTANT UnpoolParams p) {
  const int64_t mine = int64_t(blockIdx.x) * pool_threads + int(threadIdx.x);
  const int64_t sample = mine / p.channels;
  if (sample >= p.pieces) return;
  const int64_t channel = mine - sample * p.channels;
  T* const dst = static_cast<T*>(p.dst) + sample * p.large * p.channels + channel;
  for (int i = 0; i < p.large; ++i) store(dst + int64_t(i) * p.channels, narrow<T>(accumulator_t<T>(0)));
  const int64_t from = sample * p.small * p.channels + channel;
  for (int o = 0; o < p.small; ++o) {
    const int64_t index = load(p.indices + from + int64_t(o) * p.channels);
    const T value = load(static_cast<const T*>(p.src) + from + int64_t(o) * p.channels);
    if (index >= 0 && index < p.large) store(dst + index * p.channels, value);
  }
}

template <class T>
FC_KERNEL(pool_threads, 1)
void pool_pick(const FC_GRID_CONSTANT UnpoolParams p) {
  const int64_t o = int64_t(blockIdx.x) * pool_threads + int(threadIdx.x), sample = int64_t(p.small) * p.channels;
  const int64_t piece = o / sample;
  if (piece >= p.pieces) return;
  const int64_t channel = o % p.channels, index = load(p.indices + o);
  const bool inside = index >= 0 && index < p.large;
  const int64_t from = (piece * p.large + (inside ? index : 0)) * p.channels + channel;
  store(static_cast<T*>(p.dst) + o, load_if(inside, static_cast<const T*>(p.src) + from));
}

}  // namespace fastconv::kernels
