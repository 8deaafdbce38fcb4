// One tiny kernel for every primitive of device/. Each reads a.as<T>(0) (and (1)), writes its results to the last
// array, and is run with one block of 64 threads unless it says otherwise; tests/test_conformance.py holds the numpy
// oracles.
#include "emulator/tests/harness.h"

namespace fastconv::testing {
namespace {

using namespace device;

FC_DEVICE int thread() { return int(threadIdx.x); }

// Every thread copies one V.
template <class V>
FC_TEST_KERNEL(copy_global) {
  const V value = load(a.as<V>(0) + thread());
  store(a.as<V>(1) + thread(), value);
}

// Reversed through static shared memory.
template <class V>
FC_TEST_KERNEL(reverse_shared) {
  FC_STATIC_SHARED(V, tile, 64);
  tile.store(thread(), load(a.as<V>(0) + thread()));
  sync_threads();
  store(a.as<V>(1) + thread(), tile.load(63 - thread()));
}

}  // namespace

const std::vector<TestKernel>& conformance_kernels() {
  static const std::vector<TestKernel> kernels{
      {"copy_u8", copy_global<uint8_t>},
      {"copy_f32x4", copy_global<Vec<float, 4>>},
      {"reverse_u8", reverse_shared<uint8_t>},
      {"reverse_f32x4", reverse_shared<Vec<float, 4>>},
  };
  return kernels;
}

void start(const TestKernel& kernel, const Launch& config, const Arguments& arguments) {
  launch(kernel.kernel, config, arguments);
}

}  // namespace fastconv::testing
