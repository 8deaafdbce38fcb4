#include "device/launch.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <system_error>
#include <thread>

#include "emulator/block.h"
#include "emulator/grid.h"
#include "emulator/races.h"

namespace fastconv::emulator {

std::string describe(Site site) {
  std::string file = site.file_name();
  const size_t root = file.rfind("csrc/");
  if (root != std::string::npos) file = file.substr(root);
  return concat(file, ":", site.line());
}

std::string hex(uint32_t mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void fail_text(Site site, const std::string& message) {
  if (!current_thread) throw EmulatorError(message);
  const Thread& thread = self();
  const Block& block = *thread.block;
  const auto triple = [](const Dim3& d) { return concat("(", d.x, ", ", d.y, ", ", d.z, ")"); };
  throw EmulatorError(concat("kernel ", block.grid->launch.kernel, ", block ", triple(block.index), ", thread ",
                             triple(thread.index), " [warp ", thread.warp, " lane ", thread.lane, "], ", describe(site),
                             ": ", message));
}

namespace {

// A device's limits; the message says what cudaLaunchKernel would not.
void check_limits(const device::Launch& launch) {
  const Dim3 g = launch.grid, b = launch.block;
  const auto refuse = [&](const auto&... why) { throw EmulatorError(concat(device::describe(launch), ": ", why...)); };
  if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) refuse("an extent of zero");
  if (g.x > 0x7fffffffu) refuse("grid.x is limited to 2147483647");
  if (g.y > 65535 || g.z > 65535) refuse("grid.y and grid.z are limited to 65535");
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || uint64_t(b.x) * b.y * b.z > max_threads)
    refuse("a block is limited to 1024 threads, and to 64 in z");
  if (launch.shared_bytes > size_t(max_shared)) refuse("a block is limited to ", max_shared, " bytes of shared memory");
}

// Blocks are kept from launch to launch: their stacks and shared memory are worth a millisecond.
class BlockPool {
 public:
  std::unique_ptr<Block> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> block = std::move(free_.back());
    free_.pop_back();
    return block;
  }
  void give(std::unique_ptr<Block> block) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(block));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> free_;
};

BlockPool& pool() {
  static BlockPool& instance = *new BlockPool;  // never destroyed: a launch may outlive main's statics
  return instance;
}

// The order in which blocks start.
class BlockOrder {
 public:
  BlockOrder(const Settings& settings, int64_t blocks) : schedule_(settings.schedule), blocks_(blocks) {
    if (schedule_ != Schedule::random) return;
    offset_ = int64_t(settings.seed * 2654435761u % uint64_t(blocks));
    step_ = 1 + int64_t((settings.seed * 40503u + 12345u) % uint64_t(blocks));
    while (std::gcd(step_, blocks) != 1) ++step_;
  }
  int64_t operator[](int64_t i) const {
    switch (schedule_) {
      case Schedule::forward: return i;
      case Schedule::reverse: return blocks_ - 1 - i;
      default: return int64_t((__int128(i) * step_ + offset_) % blocks_);
    }
  }

 private:
  Schedule schedule_;
  int64_t blocks_, offset_ = 0, step_ = 1;
};

// The blocks of one grid, dealt to OS threads one by one.
class GridRun {
 public:
  GridRun(Grid& grid, const BlockOrder& order) : grid_(grid), order_(order) { total_.launches = 1; }

  void run(int os_threads) {
    std::vector<std::thread> helpers;
    try {
      for (int64_t i = 1; i < std::min<int64_t>(os_threads, last_); ++i) helpers.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // No more OS threads to be had: those there are do the work.
    }
    work();
    for (std::thread& helper : helpers) helper.join();
  }

  const Counters& counters() const { return total_; }
  const std::string& failure() const { return failure_; }

 private:
  void work() {
    Counters counted;
    try {
      std::unique_ptr<Block> block = pool().take();
      for (int64_t i; !stop_ && (i = next_++) < last_;) {
        const std::string diagnosis = block->run(grid_, order_[i]);
        counted += block->counters;
        if (!diagnosis.empty()) fail_block(order_[i], diagnosis);
      }
      pool().give(std::move(block));
    } catch (const std::exception& error) {  // out of memory, before any thread of the block ran
      fail_block(grid_.blocks, concat(device::describe(grid_.launch), ": ", error.what()));
    }
    const std::lock_guard lock(mutex_);
    total_ += counted;
  }

  // Of several failures the one of the first block is told.
  void fail_block(int64_t block, const std::string& diagnosis) {
    stop_ = true;
    const std::lock_guard lock(mutex_);
    if (failure_.empty() || block < failed_) failed_ = block, failure_ = diagnosis;
  }

  Grid& grid_;
  const BlockOrder& order_;
  const int64_t last_ = grid_.settings.blocks ? std::min(grid_.settings.blocks, grid_.blocks) : grid_.blocks;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // of what follows
  int64_t failed_ = 0;
  std::string failure_;
  Counters total_;
};

}  // namespace

void run_grid(const device::Launch& launch, Invoke invoke, void (*kernel)(), const void* params) {
  check_limits(launch);
  static std::atomic<int64_t> launches{0};
  Grid grid{launch, invoke, kernel, params, settings()};
  grid.serial = launches++;
  grid.blocks = int64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::optional<GlobalRaces> races;
  if (grid.settings.race_check) grid.races = &races.emplace(launch.regions);
  const BlockOrder order(grid.settings, grid.blocks);
  GridRun run(grid, order);
  run.run(grid.settings.threads ? grid.settings.threads : int(std::thread::hardware_concurrency()));
  add_counters(launch.kernel, run.counters());
  if (!run.failure().empty()) throw EmulatorError(run.failure());
}

}  // namespace fastconv::emulator
