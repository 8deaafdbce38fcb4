// Which of the compiled instruction sets to run. CMake defines FASTCONV_CPU_X86 where it compiled all three.
#include "cpu/kernels/table.h"

namespace fastconv::cpu {

namespace baseline {
extern const Kernels table;
}
#if defined(FASTCONV_CPU_X86)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

const Kernels& best() {
#if defined(FASTCONV_CPU_X86)
  const bool avx2_level = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                          __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("f16c");
  if (avx2_level && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return avx512::table;
  if (avx2_level) return avx2::table;
#endif
  return baseline::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best();
  return chosen;
}

}  // namespace fastconv::cpu
