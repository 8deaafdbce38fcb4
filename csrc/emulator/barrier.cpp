#include "emulator/barrier.h"

#include "emulator/races.h"

namespace fastconv::emulator {

int Block::sync_threads(bool value, Site site) {
  if (returned_ > 0)
    fail(site, "sync_threads after ", returned_, " of the block's ", thread_count_, " threads have returned");
  if (arrived_ > 0 && !same_site(site, barrier_site_))
    fail(site, "divergent barrier: this thread is in sync_threads here, ", arrived_, " others are in the one at ",
         describe(barrier_site_));
  barrier_site_ = site;
  count_ += value;
  if (++arrived_ < thread_count_) {
    wait("sync_threads", site);
    return result_;  // the next barrier cannot overwrite it before every thread has read it
  }
  result_ = count_;
  arrived_ = count_ = 0;
  ++epoch;
  ++counters.barriers;
  flush_logs();
  if (races) races->sync_all();
  wake_all();
  reschedule();
  return result_;
}

void Block::named_barrier(int id, int count, bool sync, Site site) {
  if (id < 1 || id > 15) fail(site, "named barrier ", id, ": expected 1 to 15 (0 is sync_threads)");
  if (count < warp_lanes || count % warp_lanes || count > thread_count_)
    fail(site, "named barrier ", id, ": a count of ", count,
         " threads; expected a multiple of 32, at most the block's ", thread_count_);
  NamedBarrier& barrier = named_[id];
  if (barrier.arrived > 0 && barrier.expected != count)
    fail(site, "named barrier ", id, ": this thread expects ", count, " threads, an earlier one at ",
         describe(barrier.site), " expected ", barrier.expected);
  barrier.expected = count;
  barrier.site = site;
  if (races) races->meet(barrier.clocks);
  if (sync) barrier.waiting.push_back(self().id);
  const bool complete = ++barrier.arrived == count;
  if (!complete) {
    if (sync) wait("a named barrier", site);
    return;
  }
  for (int thread : barrier.waiting) {
    wake(thread);
    if (races) races->depart(thread, barrier.clocks);
  }
  barrier.waiting.clear();
  barrier.clocks.clear();
  barrier.arrived = 0;
  ++counters.barriers;
  reschedule();
}

void Block::collective(uint32_t mask, const char* name, void* argument, void (*finish)(Collective&), Site site) {
  Thread& me = self();
  Warp& warp = warps_[size_t(me.warp)];
  const uint32_t mine = 1u << me.lane;
  if (!(mask & mine)) fail(site, name, ": the mask ", hex(mask), " does not name the calling lane ", me.lane);
  if (const uint32_t absent = mask & (~warp.present | warp.returned))
    fail(site, name, ": the mask ", hex(mask), " names lanes that are not there: ", hex(absent),
         warp.returned & mask ? " (they have returned)" : " (the block has no such threads)");
  Collective* found = nullptr;
  for (Collective& other : warp.collectives) {
    if (!other.arrived) {
      if (!found) found = &other;
    } else if (other.mask == mask) {
      found = &other;
    } else if ((other.arrived & mask) && (other.mask & mine)) {  // each waits for the other
      fail(site, name, ": divergent warp: the mask here is ", hex(mask), ", but lanes ", hex(other.arrived & mask),
           " wait for this one in ", other.name, " with the mask ", hex(other.mask), " at ", describe(other.site));
    }
  }
  if (!found) found = &warp.collectives.emplace_back();
  Collective& group = *found;
  if (!group.arrived) {
    group.mask = mask, group.name = name, group.site = site;
  } else if (!same_site(group.site, site)) {
    fail(site, name, ": divergent warp: other lanes of the mask ", hex(mask), " are in ", group.name, " at ",
         describe(group.site));
  }
  group.arrived |= mine;
  group.argument[me.lane] = argument;
  if (group.arrived != mask) return wait(name, site);
  finish(group);
  group.arrived = 0;
  for (uint32_t others = mask & ~mine; others; others &= others - 1) wake(me.id - me.lane + __builtin_ctz(others));
}

void Block::sync_warp(uint32_t mask, Site site) {
  const auto finish = [](Collective& group) {
    Block& block = *self().block;
    const int warp = self().warp;
    if (block.counting && group.mask == 0xffffffffu) block.warp(warp).log.flush(block.counters);
    if (!block.races) return;
    std::vector<int> threads;
    for (uint32_t lanes = group.mask; lanes; lanes &= lanes - 1)
      threads.push_back(warp * warp_lanes + __builtin_ctz(lanes));
    block.races->sync(threads);
  };
  collective(mask, "sync_warp", nullptr, finish, site);
}

}  // namespace fastconv::emulator
