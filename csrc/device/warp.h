// Warp collectives. `mask` names the lanes that take part; each of them makes the same call. T is a scalar of 4 or 8
// bytes.
//   shuffle(mask, v, lane)            v of that lane
//   shuffle_xor / _down / _up         v of lane ^ m, lane + d, lane - d (own v where that leaves the warp)
//   ballot, any, all (mask, predicate)
//   warp_sum(v), warp_max(v)          over the full warp, by a butterfly: the same order, so the same bits, in every
//   lane
// None of them orders memory: that is sync_warp's task.
//   lanes_wait                        lanes that skip a part of the code wait where it ends for the others. The
//                                     emulator's run on, and their next accesses would be counted as one request with
//                                     the others' present ones: they go through it, predicates off.
#pragma once

#include "device/sync.h"
#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/warp.h"
#endif

namespace fastconv::device {

#if defined(FASTCONV_EMULATOR)

constexpr bool lanes_wait = false;
inline int lane_id() { return emulator::self().lane; }
inline int warp_id() { return emulator::self().warp; }

template <class T>
T shuffle(uint32_t mask, T value, int lane, FC_SITE) {
  return emulator::shuffle(emulator::Shuffle::index, mask, value, lane, site);
}
template <class T>
T shuffle_xor(uint32_t mask, T value, int lane_mask, FC_SITE) {
  return emulator::shuffle(emulator::Shuffle::exclusive_or, mask, value, lane_mask, site);
}
template <class T>
T shuffle_down(uint32_t mask, T value, int delta, FC_SITE) {
  return emulator::shuffle(emulator::Shuffle::down, mask, value, delta, site);
}
template <class T>
T shuffle_up(uint32_t mask, T value, int delta, FC_SITE) {
  return emulator::shuffle(emulator::Shuffle::up, mask, value, delta, site);
}
inline uint32_t ballot(uint32_t mask, bool value, FC_SITE) { return emulator::ballot(mask, value, site); }
inline bool any(uint32_t mask, bool value, FC_SITE) { return emulator::ballot(mask, value, site) != 0; }
inline bool all(uint32_t mask, bool value, FC_SITE) { return emulator::ballot(mask, !value, site) == 0; }

template <class T>
T warp_sum(T value, FC_SITE) {
  for (int m = 16; m > 0; m /= 2) value += shuffle_xor(full_warp, value, m, site);
  return value;
}
template <class T>
T warp_max(T value, FC_SITE) {
  for (int m = 16; m > 0; m /= 2) {
    const T other = shuffle_xor(full_warp, value, m, site);
    value = other > value ? other : value;
  }
  return value;
}

#else

namespace detail {
FC_DEVICE int linear_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
}  // namespace detail

constexpr bool lanes_wait = true;
FC_DEVICE int lane_id() { return detail::linear_thread() % 32; }
FC_DEVICE int warp_id() { return detail::linear_thread() / 32; }

template <class T>
FC_DEVICE T shuffle(uint32_t mask, T value, int lane) {
  return __shfl_sync(mask, value, lane);
}
template <class T>
FC_DEVICE T shuffle_xor(uint32_t mask, T value, int lane_mask) {
  return __shfl_xor_sync(mask, value, lane_mask);
}
template <class T>
FC_DEVICE T shuffle_down(uint32_t mask, T value, int delta) {
  return __shfl_down_sync(mask, value, delta);
}
template <class T>
FC_DEVICE T shuffle_up(uint32_t mask, T value, int delta) {
  return __shfl_up_sync(mask, value, delta);
}
FC_DEVICE uint32_t ballot(uint32_t mask, bool value) { return __ballot_sync(mask, value); }
FC_DEVICE bool any(uint32_t mask, bool value) { return __any_sync(mask, value) != 0; }
FC_DEVICE bool all(uint32_t mask, bool value) { return __all_sync(mask, value) != 0; }

template <class T>
FC_DEVICE T warp_sum(T value) {
  FC_UNROLL
  for (int m = 16; m > 0; m /= 2) value += shuffle_xor(full_warp, value, m);
  return value;
}
template <class T>
FC_DEVICE T warp_max(T value) {
  FC_UNROLL
  for (int m = 16; m > 0; m /= 2) {
    const T other = shuffle_xor(full_warp, value, m);
    value = other > value ? other : value;
  }
  return value;
}

#endif

}  // namespace fastconv::device
