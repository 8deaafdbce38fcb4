#include "emulator/memory.h"

#include "emulator/async.h"
#include "emulator/grid.h"
#include "emulator/races.h"

namespace fastconv::emulator {

const char* name_of(Access access) {
  constexpr const char* names[] = {"load", "store", "atomic"};
  return names[int(access)];
}

namespace {

// "12 bytes past the end of y", for an address in no region.
std::string nearest_region(uintptr_t address, int bytes, const std::vector<device::Region>& regions) {
  if (regions.empty()) return "the launch names no region of global memory it may touch";
  uintptr_t best = ~uintptr_t(0);
  std::string text;
  for (const device::Region& region : regions) {
    const auto begin = reinterpret_cast<uintptr_t>(region.address), end = begin + uintptr_t(region.bytes);
    const bool before = address < begin;
    const uintptr_t distance = before ? begin - address : address + uintptr_t(bytes) - end;
    if (distance >= best) continue;
    best = distance;
    text = before ? concat(distance, " bytes before the start of ", region.name)
                  : concat(distance, " bytes past the end of ", region.name);
    text += concat(" (", region.bytes, " bytes)");
  }
  return text;
}

}  // namespace

void find_region(const void* p, int bytes, Access access, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  Block& block = *self().block;
  const auto& regions = block.grid->launch.regions;
  const device::Region* home = nullptr;
  for (const device::Region& region : regions) {
    const auto begin = reinterpret_cast<uintptr_t>(region.address);
    if (address >= begin && address + uintptr_t(bytes) <= begin + uintptr_t(region.bytes)) home = &region;
  }
  if (!home)
    fail(site, name_of(access), " of ", bytes, " bytes out of bounds: ", nearest_region(address, bytes, regions));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(home->address), odd = address % uintptr_t(bytes);
  if (odd)
    fail(site, "misaligned ", name_of(access), " of ", bytes, " bytes at byte ", address - begin, " of ", home->name,
         ": the address is ", odd, " past a multiple of ", bytes);
  block.recent_begin = begin;
  block.recent_end = begin + uintptr_t(home->bytes);
  block.recent_region = int(home - regions.data());
}

void refuse_shared(const SharedSpan& span, int64_t address, int bytes, Access access, Site site) {
  if (address >= span.begin && address + bytes <= span.end)
    fail(site, "misaligned shared ", name_of(access), " of ", bytes, " bytes at byte ", address - span.begin);
  fail(site, "shared ", name_of(access), " of ", bytes, " bytes out of bounds: at byte ", address - span.begin,
       " of a shared array of ", span.end - span.begin, " bytes");
}

void observe_global(const void* p, int bytes, Access access, Site site) {
  const Thread& me = self();
  Block& block = *me.block;
  const uint64_t offset = reinterpret_cast<uintptr_t>(p) - block.recent_begin;
  if (block.grid->races)
    block.grid->races->access(size_t(block.recent_region), int64_t(offset), bytes, access, block.epoch,
                              block.races->grouped(), site);
  if (!block.counting) return;
  // Host allocators align to 16 bytes, the device's to 256 and more: only what is odd to 16 is taken for an offset. The
  // multiple keeps regions apart.
  const uint64_t place = offset + block.recent_begin % 16 + uint64_t(block.recent_region) * 0x9e3779a0u;
  block.warp(me.warp).log.record(site, Space(int(access)), bytes, me.lane, uint32_t(place), block.counters);
  block.counters.traffic[int(access)].distinct += block.sectors[int(access)].add(place / 32);
}

void observe_skip(int bytes, Space space, Site site) {
  const Thread& me = self();
  Block& block = *me.block;
  if (block.counting) block.warp(me.warp).log.skip(site, space, bytes, me.lane, block.counters);
}

void observe_shared(uint32_t address, int bytes, Access access, Site site) {
  const Thread& me = self();
  Block& block = *me.block;
  check_pending(address, bytes, name_of(access), site);
  if (block.races) block.races->access(address, bytes, access, site);
  const auto space = Space(int(Space::shared_load) + int(access));
  if (block.counting) block.warp(me.warp).log.record(site, space, bytes, me.lane, address, block.counters);
}

SharedSpan dynamic_shared(int64_t byte_offset, int64_t bytes, Site site) {
  const Block& block = *self().block;
  const int64_t begin = shared_base + byte_offset, end = bytes < 0 ? block.shared.dynamic_end() : begin + bytes;
  if (byte_offset < 0 || begin > block.shared.dynamic_end() || end > block.shared.dynamic_end())
    fail(site, "dynamic_shared: bytes ", byte_offset, " to ", end - shared_base, " asked for, the launch gives ",
         block.shared.dynamic_end() - shared_base);
  return {uint32_t(begin), uint32_t(begin), uint32_t(end)};
}

SharedSpan static_shared(int64_t bytes, Site site) {
  const StaticArray& array = self().block->shared.static_array(bytes, site);
  return {array.begin, array.begin, array.end};
}

}  // namespace fastconv::emulator
