// Huge pages for large results. A fresh allocation is mapped page by page as it is first written: at 4 KiB a page that
// takes longer than most kernels here (20 MB: 16 ms against 2.3 ms in pages of 2 MiB, on a virtual machine), and
// what is mapped so is also read faster (fewer TLB misses). Linux gives huge pages to those who ask (madvise(2),
// MADV_HUGEPAGE); where there are none to be had, nothing changes.
#pragma once

#include "fastconv/plan.h"

namespace fastconv::cpu {

constexpr int64_t huge_page = 2 << 20;

// Asks for huge pages in [memory, memory + bytes): those that lie in it as a whole, so that not a byte is mapped
// beyond.
void ask_huge_pages(void* memory, int64_t bytes);

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
inline void* result(const ConvArgs& args) { return args.out; }
inline void* result(const PoolArgs& args) { return args.dst; }

// A table entry's `prepare`, whose large results lie in huge pages.
template <class Problem, Prepared<Problem> (*prepare)(const Problem&, Pass, const PlanOptions&)>
Prepared<Problem> in_huge_pages(const Problem& p, Pass pass, const PlanOptions& options) {
  Prepared<Problem> ready = prepare(p, pass, options);
  const int64_t bytes = result_bytes(p, pass);
  if (bytes < 2 * huge_page) return ready;
  ready.launch = [run = std::move(ready.launch), bytes](const typename args_of<Problem>::type& args) {
    ask_huge_pages(result(args), bytes);
    run(args);
  };
  return ready;
}

}  // namespace fastconv::cpu
