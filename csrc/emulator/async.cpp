#include "emulator/async.h"

#include <cstring>

#include "emulator/memory.h"
#include "emulator/races.h"

// The device may write the destination any time from the issue to the wait. Here that is the last possible moment, and
// the destination is poison until then: a missing or early wait cannot go unseen.
namespace fastconv::emulator {

void check_pending(uint32_t address, int bytes, const char* what, Site site) {
  Block& block = *self().block;
  if (!block.shared.any_pending()) return;
  for (uint32_t at = address; at < address + uint32_t(bytes); ++at) {
    const int owner = block.shared.pending_thread(at);
    if (owner < 0) continue;
    const Thread& thread = block.thread(owner);
    for (const AsyncCopy& copy : thread.copies)
      if (at - copy.to < uint32_t(copy.bytes))
        fail(site, what, " of byte ", int64_t(at) - shared_base, " of shared memory, which a cp.async of thread ",
             owner, " at ", describe(copy.site), " is still writing: thread ", owner,
             copy.group == thread.group ? " has not even committed it" : " has not waited for it");
  }
}

void cp_async(uint32_t to, const void* from, int bytes, Site site) {
  Thread& me = self();
  Block& block = *me.block;
  block.shared.check(to, bytes, "cp.async", site);
  from ? check_global(from, bytes, Access::load, site) : skip_global(bytes, Access::load, site);
  check_pending(to, bytes, "cp.async", site);
  if (block.races) block.races->access(to, bytes, Access::store, site);
  if (block.counting) block.warp(me.warp).log.record(site, Space::shared_store, bytes, me.lane, to, block.counters);
  block.shared.poison(to, to + uint32_t(bytes));
  block.shared.set_pending(to, bytes, me.id);
  me.copies.push_back({to, from, bytes, me.group, site});
}

void cp_async_commit() { ++self().group; }

void cp_async_wait(int groups, Site) {
  Thread& me = self();
  Block& block = *me.block;
  size_t done = 0;
  for (; done < me.copies.size() && me.copies[done].group < me.group - groups; ++done) {
    const AsyncCopy& copy = me.copies[done];
    block.shared.clear_pending(copy.to, copy.bytes);
    unsigned char* to = block.shared.at(copy.to);
    copy.from ? memcpy(to, copy.from, size_t(copy.bytes)) : memset(to, 0, size_t(copy.bytes));
    if (block.races) block.races->access(copy.to, copy.bytes, Access::store, copy.site);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + std::ptrdiff_t(done));
}

}  // namespace fastconv::emulator
