// Threads and scratch memory. Kernels are split into numbered tasks whose results do not depend on who runs them or
// when, so that bits never depend on the thread count.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv::cpu {

// Runs tasks [begin, end) of what `context` describes.
using Task = void (*)(const void* context, int64_t begin, int64_t end);

// Hands out tasks 0..count-1 in runs of `grain` to `threads` OpenMP threads; on the calling thread, without a parallel
// region, if there is one thread or one run. Rethrows what a task throws.
void parallel_for(int64_t count, int64_t grain, int threads, Task task, const void* context);

// The threads that a plan may use: `requested`, or the OpenMP default if 0; one if the work is too small to share.
int usable_threads(int requested, bool worthwhile);

// At least `bytes` of this thread's own scratch, 64-byte aligned. One user at a time: a kernel asks once and
// divides it up. Grows, and stays for the next call.
void* scratch(size_t bytes);

}  // namespace fastconv::cpu
