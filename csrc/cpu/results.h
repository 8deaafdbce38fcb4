// Memory for results, kept for the next one. A fresh mapping is paid for page by page as it is first written: at 4 KiB
// a page that takes several times as long as most kernels here (20 MB: 16 ms on a virtual machine; a 3x3 depthwise
// convolution that fills them: 2.5). So what is freed is kept, and a large result lies in huge pages, aligned to them
// (20 MB: 2 ms), which while they wait are marked as the system's to take back (madvise(2): MADV_HUGEPAGE, MADV_FREE).
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "fastconv/plan.h"

namespace fastconv::cpu {

constexpr int64_t huge_page = 2 << 20;

inline int64_t result_bytes(const ConvProblem& p, Pass pass) {
  const int64_t elements = pass == Pass::fprop   ? p.y_elements()
                           : pass == Pass::dgrad ? p.x_elements()
                           : pass == Pass::wgrad ? p.w_elements()
                                                 : p.k;
  return elements * size_of(p.dtype);
}
inline int64_t result_bytes(const PoolProblem& p, Pass pass) {
  const bool of_x = pass == Pass::dgrad || pass == Pass::unpool;
  return (of_x ? p.x_elements() : p.y_elements()) * size_of(p.dtype);
}

class Results {
 public:
  static Results& instance();

  // Memory of its own for `bytes`, page-aligned, from a huge page on in huge pages if there are any; what is in it is
  // undefined. Null if the system has none to give.
  void* take(int64_t bytes);
  // Takes back what take(bytes) gave. From any thread.
  void give(void* memory, int64_t bytes) noexcept;

  // How much is kept at most; what is above goes back to the system, the oldest first.
  void limit(int64_t bytes);
  int64_t limit() const;
  int64_t kept() const;  // bytes that wait for a result of their size

 private:
  struct Block {
    void* memory;
    int64_t bytes;
  };
  void trim() noexcept;  // unmaps what is above the limit, not while it holds the lock

  mutable std::mutex lock_;
  std::vector<Block> blocks_;  // the oldest first
  int64_t kept_ = 0, limit_ = 0;
};

}  // namespace fastconv::cpu
