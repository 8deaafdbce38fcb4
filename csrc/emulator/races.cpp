#include "emulator/races.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace fastconv::emulator {

void SharedRaces::start_block(int threads) {
  if (cells_.empty()) cells_.resize(shared_capacity);
  if (threads_ != threads) clocks_.assign(size_t(threads) * size_t(threads), 0), threads_ = threads;
  sites_.clear();
  grouped_ = true;  // so that sync_all resets the clocks
  sync_all();
}

void SharedRaces::sync_all() {
  ++epoch_;
  reads_.resize(1);
  grown_.clear();
  if (!grouped_) return;
  std::fill(clocks_.begin(), clocks_.end(), 0u);
  for (int t = 0; t < threads_; ++t) seen(t, t) = 1;
  grouped_ = false;
}

void SharedRaces::sync(const std::vector<int>& threads) {
  std::vector<uint32_t> clocks(static_cast<size_t>(threads_), 0u);
  for (int t : threads)
    for (int u = 0; u < threads_; ++u) clocks[size_t(u)] = std::max(clocks[size_t(u)], seen(t, u));
  for (int t : threads) depart(t, clocks);
}

void SharedRaces::meet(std::vector<uint32_t>& clocks) {
  const int me = self().id;
  clocks.resize(size_t(threads_), 0u);
  for (int u = 0; u < threads_; ++u) clocks[size_t(u)] = std::max(clocks[size_t(u)], seen(me, u));
  ++seen(me, me);  // what it does next is not in `clocks`
  grouped_ = true;
}

void SharedRaces::depart(int thread, const std::vector<uint32_t>& clocks) {
  const uint32_t own = seen(thread, thread);
  for (int u = 0; u < threads_; ++u) seen(thread, u) = std::max(seen(thread, u), clocks[size_t(u)]);
  seen(thread, thread) = own + 1;
  grouped_ = true;
}

bool SharedRaces::ordered(int other, uint32_t clock, int thread) {
  return other == thread || (grouped_ && seen(thread, other) >= clock);
}

uint16_t SharedRaces::number_of(Site site) {
  for (size_t i = 0; i < sites_.size(); ++i)
    if (same_site(sites_[i], site)) return uint16_t(i);
  sites_.push_back(site);
  return uint16_t(sites_.size() - 1);
}

uint32_t SharedRaces::with_read(uint32_t set, const Read& read) {
  const uint64_t key =
      uint64_t(set) << 32 | uint64_t(read.clock & 0xffff) << 16 | uint64_t(read.thread) << 6 | (read.site & 63);
  uint32_t& grown = grown_[key];
  if (grown) return grown;
  for (uint32_t s = set; s; s = reads_[s].rest)
    if (reads_[s].thread == read.thread && reads_[s].clock == read.clock) return grown = set;
  reads_.push_back({set, read.clock, read.thread, read.site});
  return grown = uint32_t(reads_.size() - 1);
}

void SharedRaces::report(uint32_t address, Access access, Site site, const char* verb, int other, uint16_t where) {
  const Block& block = *self().block;
  const int64_t byte = int64_t(address) - shared_base;
  fail(site, "race on shared memory at byte ", byte,
       byte < int64_t(block.shared.dynamic_end()) - shared_base ? "" : " (static)", ": this ", name_of(access),
       " and the ", verb, " by thread ", other, " [warp ", other / warp_lanes, " lane ", other % warp_lanes, "] at ",
       describe(sites_[where]), " have no barrier between them");
}

void SharedRaces::access(uint32_t address, int bytes, Access access, Site site) {
  const int me = self().id;
  const uint32_t clock = seen(me, me);
  const uint16_t where = number_of(site);
  for (uint32_t at = address; at < address + uint32_t(bytes); ++at) {
    Cell& cell = cells_[at];
    if (cell.epoch != epoch_) cell = Cell{}, cell.epoch = epoch_;
    const bool both_atomic = access == Access::atomic && cell.atomic;
    if (cell.writer && !both_atomic && !ordered(cell.writer - 1, cell.clock, me))
      report(at, access, site, cell.atomic ? "atomic" : "store", cell.writer - 1, cell.site);
    if (access == Access::load) {
      cell.readers = with_read(cell.readers, {0, clock, uint16_t(me), where});
      continue;
    }
    for (uint32_t s = cell.readers; s; s = reads_[s].rest)
      if (!ordered(reads_[s].thread, reads_[s].clock, me))
        report(at, access, site, "load", reads_[s].thread, reads_[s].site);
    cell.readers = 0;
    cell.writer = uint16_t(me + 1), cell.clock = clock, cell.site = where;
    cell.atomic = access == Access::atomic;
  }
}

GlobalRaces::GlobalRaces(const std::vector<device::Region>& regions) : regions_(regions) {
  for (const device::Region& region : regions) {
    const size_t bytes = std::max<size_t>(size_t(region.bytes), 1) * sizeof(Word);
    void* zeros = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED) throw std::bad_alloc();
    writers_.emplace_back(static_cast<Word*>(zeros), Unmap{bytes});
  }
}

void GlobalRaces::Unmap::operator()(Word* words) const { munmap(words, bytes); }

namespace {

// Who wrote a byte: block + 1 (38 bits), thread (10), epoch of the block (15), atomic (1). 0: nobody.
struct Writer {
  uint64_t word;
  Writer(int64_t block, int thread, uint32_t epoch, bool atomic)
      : word(uint64_t(block + 1) << 26 | uint64_t(thread) << 16 | uint64_t(epoch & 0x7fff) << 1 | uint64_t(atomic)) {}
  explicit Writer(uint64_t w) : word(w) {}
  int64_t block() const { return int64_t(word >> 26) - 1; }
  int thread() const { return int(word >> 16 & 1023); }
  uint32_t epoch() const { return uint32_t(word >> 1 & 0x7fff); }
  bool atomic() const { return word & 1; }
};

}  // namespace

void GlobalRaces::access(size_t region, int64_t offset, int bytes, Access access, uint32_t epoch, bool grouped,
                         Site site) {
  const Thread& me = self();
  const Writer mine(me.block->linear_index, me.id, epoch, access == Access::atomic);
  for (int64_t i = offset; i < offset + bytes; ++i) {
    Word& cell = writers_[region][size_t(i)];
    const Writer old(access == Access::load ? cell.load(std::memory_order_relaxed)
                                            : cell.exchange(mine.word, std::memory_order_relaxed));
    if (!old.word || (old.atomic() && mine.atomic())) continue;
    const char* name = regions_[region].name;
    if (access == Access::load)
      fail(site, "load of ", name, " at byte ", i, " goes through the read-only path, but block ", old.block(),
           " thread ", old.thread(), " wrote it during this launch");
    if (old.block() != mine.block())
      fail(site, "race on ", name, " at byte ", i, ": block ", old.block(), " thread ", old.thread(),
           " has written it during this launch, too");
    if (old.thread() != mine.thread() && old.epoch() == mine.epoch() && !grouped)
      fail(site, "race on ", name, " at byte ", i, ": thread ", old.thread(),
           " of this block has written it, too, with no barrier between");
  }
}

}  // namespace fastconv::emulator
