// Barriers, see device/sync.h.
#pragma once

#include "emulator/block.h"

namespace fastconv::emulator {

// Returns how many threads passed `true`.
inline int sync_threads(bool value, Site site) { return self().block->sync_threads(value, site); }
inline void named_barrier(int id, int threads, bool sync, Site site) {
  self().block->named_barrier(id, threads, sync, site);
}
inline void sync_warp(uint32_t mask, Site site) { self().block->sync_warp(mask, site); }

}  // namespace fastconv::emulator
