#include "cpu/results.h"

#include <sys/mman.h>

#include <algorithm>

namespace fastconv::cpu {

namespace {

char* round_up(void* memory, int64_t to) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + to - 1) / to * to);
}

void* map_pages(int64_t bytes) {
  void* const all = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return all == MAP_FAILED ? nullptr : all;
}

// A mapping a huge page too long, less what lies before the first boundary and after the end.
void* map_huge_pages(int64_t bytes) {
  const int64_t mapped = bytes + huge_page;
  void* const all = map_pages(mapped);
  if (!all) return nullptr;
  char *const begin = static_cast<char*>(all), *const block = round_up(all, huge_page);
  char *const end = round_up(block + bytes, 4096), *const last = begin + mapped;
  if (begin < block) munmap(begin, block - begin);
  if (end < last) munmap(end, last - end);
#ifdef MADV_HUGEPAGE
  (void)madvise(block, end - block, MADV_HUGEPAGE);  // advice: a system without them refuses, and all is as before
#endif
  return block;
}

}  // namespace

// Never destroyed: tensors may outlive every static object.
Results& Results::instance() {
  static auto* const results = new Results;
  return *results;
}

void* Results::take(int64_t bytes) {
  {
    const std::lock_guard<std::mutex> held(lock_);
    // The newest of this very size: a network's results come in the same sizes again, and none is larger than asked.
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), [=](const Block& b) { return b.bytes == bytes; });
    if (found != blocks_.rend()) {
      void* const memory = found->memory;
      blocks_.erase(std::next(found).base());
      kept_ -= bytes;
      return memory;
    }
  }
  return bytes < huge_page ? map_pages(bytes) : map_huge_pages(bytes);
}

void Results::give(void* memory, int64_t bytes) noexcept {
  if (bytes > limit()) {  // rather than everything else
    munmap(memory, bytes);
    return;
  }
#ifdef MADV_FREE
  // Of small pages there are so many that marking them would cost more than they are worth.
  if (bytes >= huge_page) (void)madvise(memory, bytes, MADV_FREE);
#endif
  {
    const std::lock_guard<std::mutex> held(lock_);
    blocks_.push_back({memory, bytes});
    kept_ += bytes;
  }
  trim();
}

void Results::limit(int64_t bytes) {
  {
    const std::lock_guard<std::mutex> held(lock_);
    limit_ = bytes;
  }
  trim();
}

void Results::trim() noexcept {
  for (;;) {
    Block oldest;
    {
      const std::lock_guard<std::mutex> held(lock_);
      if (kept_ <= limit_) return;
      oldest = blocks_.front();
      blocks_.erase(blocks_.begin());
      kept_ -= oldest.bytes;
    }
    munmap(oldest.memory, oldest.bytes);
  }
}

int64_t Results::limit() const {
  const std::lock_guard<std::mutex> held(lock_);
  return limit_;
}

int64_t Results::kept() const {
  const std::lock_guard<std::mutex> held(lock_);
  return kept_;
}

}  // namespace fastconv::cpu
