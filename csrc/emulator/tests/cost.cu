// What the emulator itself costs: measured by cost.py beside this file.
#include "device/device.h"
#include "emulator/tests/harness.h"

namespace fastconv::testing {
namespace {

using namespace device;

FC_TEST_KERNEL(empty) { (void)a; }

// a.n[0] barriers: every thread is switched to once for each.
FC_TEST_KERNEL(barriers) {
  for (int64_t i = 0; i < a.n[0]; ++i) sync_threads();
}

// a.n[0] tensor-core instructions a warp, from registers.
FC_TEST_KERNEL(tensor) {
  const uint32_t x = 0x3c003c00u;  // two ones
  const uint32_t fa[4] = {x, x, x, x}, fb[2] = {x, x};
  float d[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < a.n[0]; ++i) mma_m16n8k16<f16>(d, fa, fb);
  store(a.as<float>(0) + threadIdx.x, d[0]);
}

// a.n[0] loads and fused multiply-adds a thread, coalesced.
FC_TEST_KERNEL(loads) {
  float sum = 0;
  for (int64_t i = 0; i < a.n[0]; ++i) sum += load(a.as<float>(0) + threadIdx.x) * 2.0f;
  store(a.as<float>(1) + threadIdx.x, sum);
}

// The same from shared memory.
FC_TEST_KERNEL(shared_loads) {
  FC_STATIC_SHARED(float, tile, 1024);
  tile.store(int(threadIdx.x), 1.0f);
  sync_threads();
  float sum = 0;
  for (int64_t i = 0; i < a.n[0]; ++i) sum += tile.load(int(threadIdx.x)) * 2.0f;
  store(a.as<float>(0) + threadIdx.x, sum);
}

}  // namespace

const std::vector<TestKernel>& cost_kernels() {
  static const std::vector<TestKernel> kernels{
      {"empty", empty}, {"barriers", barriers}, {"tensor", tensor}, {"loads", loads}, {"shared_loads", shared_loads}};
  return kernels;
}

}  // namespace fastconv::testing
