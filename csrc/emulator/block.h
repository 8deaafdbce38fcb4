// One block of threads in execution. Every CUDA thread is a fiber; the block runs to completion on one OS thread, and
// exactly one of its threads runs at any time: until it waits for others or returns. The schedule decides who is next.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/types.h"
#include "emulator/counters.h"
#include "emulator/error.h"
#include "emulator/fiber.h"
#include "emulator/settings.h"
#include "emulator/shared.h"

namespace fastconv::emulator {

using device::Dim3;

class Block;
class SharedRaces;
struct Grid;

constexpr int warp_lanes = 32;
constexpr int max_threads = 1024;
constexpr int max_warps = max_threads / warp_lanes;

// A copy from global to shared memory that has been issued and not yet waited for.
struct AsyncCopy {
  uint32_t to;
  const void* from;  // null: zeros
  int bytes;
  int group;
  Site site;
};

// What a switch touches comes first, in one cache line.
struct alignas(64) Thread {
  Block* block = nullptr;
  Fiber* fiber = nullptr;           // null until it first runs
  const char* waits_for = nullptr;  // what it waits for, or did last
  Site waits_at;
  Dim3 index;
  int16_t id = 0, lane = 0, warp = 0;
  bool returned = false;
  int group = 0;                  // of asynchronous copies, the one now open
  std::vector<AsyncCopy> copies;  // in flight, oldest first
};

// The thread that runs on this OS thread. Fibers never migrate, so the compiler may keep the address of this variable.
// The initial-exec model makes reading it one instruction; in a shared object the default one would call a function.
extern constinit thread_local Thread* current_thread __attribute__((tls_model("initial-exec")));
inline Thread& self() { return *current_thread; }

// A warp collective some lanes have arrived at. The last one does the work through the others' arguments, which live on
// their stacks.
struct Collective {
  uint32_t mask = 0, arrived = 0;  // arrived == 0: free
  const char* name = nullptr;
  Site site;
  void* argument[warp_lanes];
  template <class Lane>
  Lane& of(int lane) const {
    return *static_cast<Lane*>(argument[lane]);
  }
};

struct Warp {
  uint32_t present = 0;   // lanes that exist
  uint32_t returned = 0;  // lanes that have left the kernel
  std::vector<Collective> collectives;
  WarpLog log;
};

struct NamedBarrier {
  int expected = 0, arrived = 0;
  Site site;
  std::vector<int> waiting;      // thread ids
  std::vector<uint32_t> clocks;  // race checker: what those who arrived have done
};

class Block {
 public:
  Block();
  ~Block();

  // Runs one block of the grid; returns the diagnosis, empty if there is none.
  std::string run(Grid& grid, int64_t linear_index);

  // For primitives, on the running thread:
  void wait(const char* what, Site site);  // until wake()
  void wake(int thread) { ready_[thread / 64] |= uint64_t(1) << thread % 64; }
  void wake_all();
  bool is_ready(int thread) const { return ready_[thread / 64] >> thread % 64 & 1; }
  void reschedule();  // lets the schedule choose again; the running thread stays ready
  int sync_threads(bool value, Site site);
  void named_barrier(int id, int count, bool sync, Site site);
  void sync_warp(uint32_t mask, Site site);
  void collective(uint32_t mask, const char* name, void* argument, void (*finish)(Collective&), Site site);
  Thread& thread(int id) { return threads_[size_t(id)]; }
  Warp& warp(int i) { return warps_[size_t(i)]; }
  // Accesses of shared memory take the slow path: they are counted, or checked for more than bounds and alignment.
  bool watch_shared() const { return watch_ || shared.any_pending(); }
  bool watch_global() const { return watch_; }

  SharedMemory shared;
  Grid* grid = nullptr;
  Dim3 index;
  int64_t linear_index = 0;
  uintptr_t recent_begin = 0, recent_end = 0;  // the global region hit last
  int recent_region = 0;
  bool counting = false;
  Counters counters;
  SectorSet sectors[3];          // loaded, stored, updated atomically
  SharedRaces* races = nullptr;  // null: not asked for
  uint32_t epoch = 0;            // counts sync_threads

 private:
  static void fiber_main();
  void start(Grid& grid, int64_t linear_index);
  void thread_returned(Thread& thread);
  void flush_logs();
  int pick();
  int pick_random();
  Fiber* take_fiber();
  void reset_fibers();
  std::string deadlock() const;
  uint64_t random();

  Fiber main_;
  Stacks stacks_;
  std::vector<Fiber> fibers_;
  std::vector<Fiber*> free_fibers_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  int thread_count_ = 0, returned_ = 0;
  Schedule schedule_ = Schedule::forward;
  int ready_words_ = 0;
  uint64_t ready_[max_threads / 64] = {};     // a bit for each thread that can run
  int arrived_ = 0, count_ = 0, result_ = 0;  // of sync_threads
  Site barrier_site_;
  NamedBarrier named_[16];
  bool watch_ = false;
  std::unique_ptr<SharedRaces> races_;
  int64_t launch_serial_ = -1;
  uint64_t random_state_ = 1;
  std::string failure_;
};

}  // namespace fastconv::emulator

#define threadIdx (::fastconv::emulator::self().index)
#define blockIdx (::fastconv::emulator::self().block->index)
#define blockDim (::fastconv::emulator::block_dim())
#define gridDim (::fastconv::emulator::grid_dim())

namespace fastconv::emulator {
const Dim3& block_dim();
const Dim3& grid_dim();
}  // namespace fastconv::emulator
