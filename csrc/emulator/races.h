// The race checker: two accesses of the same byte, at least one of them a write, must be ordered by a barrier.
//
// Shared memory: happens-before by vector clocks, as in FastTrack (Flanagan and Freund, PLDI 2009). Every byte
// remembers its last write and the reads since. sync_threads orders everything, so it just starts a new epoch;
// sync_warp and named barriers join the clocks of those who meet. Shuffles and votes order nothing, as on the device.
//
// Global memory: every byte remembers who wrote it during this launch. No barrier orders two blocks.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "device/launch.h"
#include "emulator/memory.h"

namespace fastconv::emulator {

class SharedRaces {
 public:
  void start_block(int threads);
  void sync_all();                             // sync_threads
  void sync(const std::vector<int>& threads);  // these have met
  void meet(std::vector<uint32_t>& clocks);    // the running thread arrives: what it did is in `clocks` ...
  void depart(int thread, const std::vector<uint32_t>& clocks);  // ... and known to this one
  bool grouped() const { return grouped_; }  // somebody met in a smaller group since the last sync_all

  // Throws if the access of shared bytes [address, address + bytes) by the running thread races.
  void access(uint32_t address, int bytes, Access access, Site site);

 private:
  struct Cell {
    uint32_t epoch = 0;    // of what follows; another epoch's is forgotten
    uint32_t clock = 0;    // of the writer, when it wrote
    uint32_t readers = 0;  // a set of reads since the write, see Read
    uint16_t writer = 0;   // thread + 1; 0: nobody
    uint16_t site = 0;     // of the write
    bool atomic = false;
  };
  // Sets of reads are lists that share their tails, and growing one by the same read gives the same set: the bytes of a
  // tile that all threads read share one chain.
  struct Read {
    uint32_t rest;  // the set without this read; 0 is the empty set
    uint32_t clock;
    uint16_t thread, site;
  };
  uint32_t with_read(uint32_t set, const Read& read);
  uint16_t number_of(Site site);
  uint32_t& seen(int thread, int other) { return clocks_[size_t(thread) * size_t(threads_) + size_t(other)]; }
  bool ordered(int other, uint32_t clock, int thread);
  [[noreturn]] void report(uint32_t address, Access access, Site site, const char* verb, int other, uint16_t where);

  std::vector<Cell> cells_;
  std::vector<Read> reads_{Read{}};
  std::unordered_map<uint64_t, uint32_t> grown_;
  std::vector<Site> sites_;
  std::vector<uint32_t> clocks_;  // clocks_[t * threads + u]: the last moment of u that t knows of; own clock at u == t
  int threads_ = 0;
  uint32_t epoch_ = 0;
  bool grouped_ = false;
};

class GlobalRaces {
 public:
  explicit GlobalRaces(const std::vector<device::Region>& regions);
  // Throws if bytes [offset, offset + bytes) of the region were written by somebody the running thread cannot know to
  // be done. `epoch` counts the block's sync_threads; `grouped`: threads of the block also met in smaller groups.
  void access(size_t region, int64_t offset, int bytes, Access access, uint32_t epoch, bool grouped, Site site);

 private:
  using Word = std::atomic<uint64_t>;
  struct Unmap {
    size_t bytes;
    void operator()(Word* words) const;
  };
  const std::vector<device::Region>& regions_;
  // A word for every byte; memory is only taken for those that are touched.
  std::vector<std::unique_ptr<Word[], Unmap>> writers_;
};

}  // namespace fastconv::emulator
