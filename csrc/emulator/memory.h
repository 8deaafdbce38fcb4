// Checked global and shared memory, see device/memory.h. Bounds and alignment are checked inline.
#pragma once

#include <cstring>

#include "emulator/block.h"

namespace fastconv::emulator {

enum class Access : uint8_t { load, store, atomic };
const char* name_of(Access access);

// A view of one allocation of shared memory.
struct SharedSpan {
  uint32_t address = 0, begin = 0, end = 0;
};

// Finds the region, or says what is wrong with the access.
void find_region(const void* p, int bytes, Access access, Site site);
[[noreturn]] void refuse_shared(const SharedSpan& span, int64_t address, int bytes, Access access, Site site);
// Counts; checks for races and for asynchronous copies in flight.
void observe_global(const void* p, int bytes, Access access, Site site);
void observe_shared(uint32_t address, int bytes, Access access, Site site);

SharedSpan dynamic_shared(int64_t byte_offset, int64_t bytes, Site site);
SharedSpan static_shared(int64_t bytes, FC_SITE);

inline void check_global(const void* p, int bytes, Access access, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  const Block& block = *self().block;
  if (address < block.recent_begin || address + unsigned(bytes) > block.recent_end || address % unsigned(bytes))
      [[unlikely]]
    find_region(p, bytes, access, site);
  if (block.watch_global()) observe_global(p, bytes, access, site);
}

// A predicated access that this thread leaves out.
void observe_skip(int bytes, Space space, Site site);
inline void skip_global(int bytes, Access access, Site site) {
  if (self().block->watch_global()) observe_skip(bytes, Space(int(access)), site);
}
inline void skip_shared(int bytes, Access access, Site site) {
  if (self().block->counting) observe_skip(bytes, Space(int(Space::shared_load) + int(access)), site);
}

inline void load_global(void* to, const void* from, int bytes, Site site) {
  check_global(from, bytes, Access::load, site);
  memcpy(to, from, size_t(bytes));
}

inline void store_global(void* to, const void* from, int bytes, Site site) {
  check_global(to, bytes, Access::store, site);
  memcpy(to, from, size_t(bytes));
}

// Where element bytes [offset, offset + bytes) of the span live on the host.
inline unsigned char* check_shared(const SharedSpan& span, int64_t offset, int bytes, Access access, Site site) {
  const int64_t address = int64_t(int32_t(span.address)) + offset;
  Block& block = *self().block;
  if (address < span.begin || address + bytes > span.end || address % bytes) [[unlikely]]
    refuse_shared(span, address, bytes, access, site);
  if (block.watch_shared()) observe_shared(uint32_t(address), bytes, access, site);
  return block.shared.at(uint32_t(address));
}

inline void load_shared(void* to, const SharedSpan& span, int64_t offset, int bytes, Site site) {
  memcpy(to, check_shared(span, offset, bytes, Access::load, site), size_t(bytes));
}

inline void store_shared(const void* from, const SharedSpan& span, int64_t offset, int bytes, Site site) {
  memcpy(check_shared(span, offset, bytes, Access::store, site), from, size_t(bytes));
}

}  // namespace fastconv::emulator
