#include "cpu/parallel.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>

namespace fastconv::cpu {

void parallel_for(int64_t count, int64_t grain, int threads, Task task, const void* context) {
  if (threads <= 1 || count <= grain) return task(context, 0, count);
  const int64_t runs = (count + grain - 1) / grain;
  std::exception_ptr failure;  // an exception must not leave a parallel region
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t run = 0; run < runs; ++run) {
    try {
      task(context, run * grain, std::min(count, (run + 1) * grain));
    } catch (...) {
#pragma omp critical(fastconv_parallel_for)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

int usable_threads(int requested, bool worthwhile) {
  if (!worthwhile) return 1;
  return requested > 0 ? requested : omp_get_max_threads();
}

namespace {

struct Scratch {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(memory); }
};

}  // namespace

void* scratch(size_t bytes) {
  thread_local Scratch own;
  if (own.bytes < bytes) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    std::free(own.memory);
    own.bytes = 0;
    own.memory = std::aligned_alloc(64, rounded);
    if (!own.memory) throw std::bad_alloc();
    own.bytes = rounded;
  }
  return own.memory;
}

}  // namespace fastconv::cpu
