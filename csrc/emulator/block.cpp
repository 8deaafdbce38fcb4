#include "emulator/block.h"

#include <algorithm>
#include <cstring>

#include "emulator/grid.h"
#include "emulator/races.h"

namespace fastconv::emulator {

constinit thread_local Thread* current_thread = nullptr;

const Dim3& block_dim() { return self().block->grid->launch.block; }
const Dim3& grid_dim() { return self().block->grid->launch.grid; }

Block::Block() : stacks_(max_threads), fibers_(max_threads), threads_(max_threads), warps_(max_warps) {
  for (int i = 0; i < max_threads; ++i) fibers_[size_t(i)] = stacks_.fiber(i);
  free_fibers_.reserve(max_threads);
  reset_fibers();
}

Block::~Block() = default;

// All fibers are free and start at fiber_main. Needed once, and after a failure, which leaves fibers amid a kernel.
void Block::reset_fibers() {
  free_fibers_.clear();
  for (int i = max_threads - 1; i >= 0; --i) free_fibers_.push_back(&fibers_[size_t(i)]);
  for (Fiber& fiber : fibers_) fiber.stack_pointer = nullptr;
}

Fiber* Block::take_fiber() {
  Fiber* fiber = free_fibers_.back();
  free_fibers_.pop_back();
  if (!fiber->stack_pointer) prepare(*fiber, &Block::fiber_main);
  return fiber;
}

void Block::start(Grid& grid_, int64_t linear) {
  grid = &grid_;
  linear_index = linear;
  const Dim3 g = grid->launch.grid, b = grid->launch.block;
  index = {unsigned(linear % g.x), unsigned(linear / g.x % g.y), unsigned(linear / g.x / g.y)};
  thread_count_ = int(b.x * b.y * b.z);
  returned_ = arrived_ = count_ = 0;
  epoch = 0;
  failure_.clear();
  counters = {};
  counters.blocks = 1, counters.threads = thread_count_;
  counting = grid->settings.count;
  for (SectorSet& each : sectors) each.clear();
  races = nullptr;
  if (grid->settings.race_check) {
    if (!races_) races_ = std::make_unique<SharedRaces>();
    races = races_.get();
    races->start_block(thread_count_);
  }
  watch_ = counting || races;
  random_state_ = (grid->settings.seed * 0x9e3779b97f4a7c15u + uint64_t(linear) + 1) * 0xbf58476d1ce4e5b9u | 1;
  recent_begin = recent_end = 0;
  schedule_ = grid->settings.schedule;
  ready_words_ = (thread_count_ + 63) / 64;
  for (int i = 0; i < thread_count_; ++i) {
    Thread& thread = threads_[size_t(i)];
    const unsigned u = unsigned(i);
    thread.block = this;
    thread.fiber = nullptr;
    thread.index = {u % b.x, u / b.x % b.y, u / b.x / b.y};
    thread.id = int16_t(i), thread.lane = int16_t(i % warp_lanes), thread.warp = int16_t(i / warp_lanes);
    thread.returned = false;
    thread.group = 0;
    thread.copies.clear();
  }
  wake_all();
  for (int w = 0; w * warp_lanes < thread_count_; ++w) {
    const int lanes = std::min(warp_lanes, thread_count_ - w * warp_lanes);
    Warp& warp = warps_[size_t(w)];
    warp.present = lanes == warp_lanes ? 0xffffffffu : (1u << lanes) - 1;
    warp.returned = 0;
    for (Collective& collective : warp.collectives) collective.arrived = 0;
    if (launch_serial_ != grid->serial) warp.log.clear();
  }
  launch_serial_ = grid->serial;
  for (NamedBarrier& barrier : named_) {
    barrier.expected = barrier.arrived = 0;
    barrier.waiting.clear();
    barrier.clocks.clear();
  }
  shared.start(int64_t(grid->launch.shared_bytes), grid->settings.poison);
}

std::string Block::run(Grid& grid_, int64_t linear) {
  start(grid_, linear);
  Thread& first = threads_[size_t(pick())];
  first.fiber = take_fiber();
  current_thread = &first;
  adopt_thread(main_);
  switch_fiber(main_, *first.fiber);
  current_thread = nullptr;
  flush_logs();
  if (!failure_.empty()) reset_fibers();
  return failure_;
}

void Block::flush_logs() {
  if (!counting) return;
  for (int w = 0; w * warp_lanes < thread_count_; ++w) warps_[size_t(w)].log.flush(counters);
}

// The life of a fiber: it runs one thread after another. A thread that never waits costs no switch, because the next
// one that has not started yet takes over its stack.
void Block::fiber_main() {
  fiber_started();
  for (;;) {
    Thread& me = self();
    Block& block = *me.block;
    try {
      block.grid->invoke(block.grid->kernel, block.grid->params);
      block.thread_returned(me);
    } catch (const std::exception& error) {
      block.failure_ = error.what();
    }
    const int next = block.failure_.empty() ? block.pick() : -1;
    if (next < 0) {
      if (block.failure_.empty()) block.free_fibers_.push_back(me.fiber);
      switch_fiber(*me.fiber, block.main_);
      continue;
    }
    Thread& thread = block.threads_[size_t(next)];
    current_thread = &thread;
    if (!thread.fiber) {
      thread.fiber = me.fiber;
    } else {
      block.free_fibers_.push_back(me.fiber);
      switch_fiber(*me.fiber, *thread.fiber);
    }
  }
}

void Block::thread_returned(Thread& me) {
  me.returned = true;
  ready_[me.id / 64] &= ~(uint64_t(1) << me.id % 64);
  ++returned_;
  Warp& warp = warps_[size_t(me.warp)];
  warp.returned |= 1u << me.lane;
  if (arrived_ > 0)
    fail(barrier_site_, "this thread returned, but ", arrived_, " threads wait for it in sync_threads here");
  for (const Collective& collective : warp.collectives)
    if (collective.arrived && collective.mask >> me.lane & 1)
      fail(collective.site, "lane ", me.lane, " returned, but the mask of this ", collective.name, " names it");
  if (returned_ < thread_count_ && pick() < 0) fail(me.waits_at, deadlock());
}

void Block::wake_all() {
  for (int w = 0; w < ready_words_; ++w) ready_[w] = ~uint64_t(0);
  if (thread_count_ % 64) ready_[ready_words_ - 1] = (uint64_t(1) << thread_count_ % 64) - 1;
}

void Block::wait(const char* what, Site site) {
  Thread& me = self();
  me.waits_for = what;
  me.waits_at = site;
  ready_[me.id / 64] &= ~(uint64_t(1) << me.id % 64);
  return reschedule();
}

void Block::reschedule() {
  Thread& me = self();
  const int next = pick();
  if (next < 0) [[unlikely]]
    fail(me.waits_at, deadlock());
  Thread& thread = threads_[size_t(next)];
  if (&thread == &me) return;
  if (!thread.fiber) [[unlikely]]
    thread.fiber = take_fiber();
  current_thread = &thread;
  return switch_fiber(*me.fiber, *thread.fiber);
}

uint64_t Block::random() {  // xorshift64
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

// The thread to run next, -1 if none can.
int Block::pick() {
  switch (schedule_) {
    case Schedule::forward:
      for (int w = 0; w < ready_words_; ++w)
        if (ready_[w]) return w * 64 + __builtin_ctzll(ready_[w]);
      return -1;
    case Schedule::reverse:
      for (int w = ready_words_ - 1; w >= 0; --w)
        if (ready_[w]) return w * 64 + 63 - __builtin_clzll(ready_[w]);
      return -1;
    default: return pick_random();
  }
}

// The first that can run, from a random one on.
int Block::pick_random() {
  const int start = int(random() % uint64_t(thread_count_)), first = start / 64;
  const uint64_t above = ready_[first] & ~uint64_t(0) << start % 64;
  if (above) return first * 64 + __builtin_ctzll(above);
  for (int step = 1; step <= ready_words_; ++step) {
    const int w = (first + step) % ready_words_;
    if (ready_[w]) return w * 64 + __builtin_ctzll(ready_[w]);
  }
  return -1;
}

// Who waits where, in groups.
std::string Block::deadlock() const {
  std::string text = "deadlock: no thread of the block can run;";
  std::vector<bool> told(size_t(thread_count_), false);
  for (int i = 0; i < thread_count_; ++i) {
    const Thread& first = threads_[size_t(i)];
    if (told[size_t(i)] || first.returned || is_ready(i)) continue;
    int count = 0;
    for (int j = i; j < thread_count_; ++j) {
      const Thread& other = threads_[size_t(j)];
      if (other.returned || is_ready(j)) continue;
      if (other.waits_for != first.waits_for || !same_site(other.waits_at, first.waits_at)) continue;
      told[size_t(j)] = true;
      ++count;
    }
    text +=
        concat(" ", count, " wait in ", first.waits_for, " at ", describe(first.waits_at), " (first: thread ", i, ");");
  }
  return text + concat(" ", returned_, " have returned");
}

}  // namespace fastconv::emulator
