#include "cpu/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastconv::cpu {

void ask_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  const auto begin = (reinterpret_cast<uintptr_t>(memory) + huge_page - 1) / huge_page * huge_page;
  const auto end = (reinterpret_cast<uintptr_t>(memory) + uintptr_t(bytes)) / huge_page * huge_page;
  // Advice: a kernel without huge pages refuses, and all is as before.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace fastconv::cpu
