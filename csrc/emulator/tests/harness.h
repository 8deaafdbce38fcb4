// How Python starts a test kernel: every one takes the same parameter, some addresses and some integers, and is known
// by name. _emutest (emulator) and _cudatest (GPU) are built from the same sources with the same face.
#pragma once

#include <vector>

#include "device/launch.h"

namespace fastconv::testing {

struct Arguments {
  void* p[4];    // arrays
  int64_t n[4];  // sizes, or whatever the kernel wants to know
  template <class T>
  FC_HOST_DEVICE T* as(int i) const {
    return static_cast<T*>(p[i]);
  }
};

struct TestKernel {
  const char* name;
  void (*kernel)(Arguments);
};

// One tiny kernel for every primitive of device/, correct; compared between GPU, emulator and numpy.
const std::vector<TestKernel>& conformance_kernels();
// Kernels with a mistake planted (and, with mistake 0, their correct twins); for the emulator only.
const std::vector<TestKernel>& mistake_kernels();
// Known memory traffic, for the counters.
const std::vector<TestKernel>& traffic_kernels();
// What the emulator costs.
const std::vector<TestKernel>& cost_kernels();

// Starts `kernel` (defined where the compiler is the right one).
void start(const TestKernel& kernel, const device::Launch& config, const Arguments& arguments);

#define FC_TEST_KERNEL(name) FC_KERNEL(1024, 1) void name(const FC_GRID_CONSTANT ::fastconv::testing::Arguments a)

}  // namespace fastconv::testing
