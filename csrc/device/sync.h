// Barriers.
//   sync_threads()                 every thread of the block; also _or, _and, _count of a predicate over the block
//   sync_warp(mask)                the named lanes; orders their memory accesses
//   barrier_sync(id, threads)      named barrier 1..15: waits until `threads` (a multiple of 32) synced or arrived
//   barrier_arrive(id, threads)    counts, does not wait
// Rules: one lexical barrier for all threads of the block; nobody returns before it.
#pragma once

#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/barrier.h"
#endif

namespace fastconv::device {

constexpr uint32_t full_warp = 0xffffffffu;

#if defined(FASTCONV_EMULATOR)

inline void sync_threads(FC_SITE) { emulator::sync_threads(false, site); }
inline bool sync_threads_or(bool value, FC_SITE) { return emulator::sync_threads(value, site) != 0; }
inline bool sync_threads_and(bool value, FC_SITE) { return emulator::sync_threads(!value, site) == 0; }
inline int sync_threads_count(bool value, FC_SITE) { return emulator::sync_threads(value, site); }
inline void sync_warp(uint32_t mask = full_warp, FC_SITE) { emulator::sync_warp(mask, site); }
inline void barrier_sync(int id, int threads, FC_SITE) { emulator::named_barrier(id, threads, true, site); }
inline void barrier_arrive(int id, int threads, FC_SITE) { emulator::named_barrier(id, threads, false, site); }

#else

FC_DEVICE void sync_threads() { __syncthreads(); }
FC_DEVICE bool sync_threads_or(bool value) { return __syncthreads_or(value) != 0; }
FC_DEVICE bool sync_threads_and(bool value) { return __syncthreads_and(value) != 0; }
FC_DEVICE int sync_threads_count(bool value) { return __syncthreads_count(value); }
FC_DEVICE void sync_warp(uint32_t mask = full_warp) { __syncwarp(mask); }
FC_DEVICE void barrier_sync(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
FC_DEVICE void barrier_arrive(int id, int threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif

}  // namespace fastconv::device
