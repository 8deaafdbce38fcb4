// fprop's epilogue on what has just been written, and is still in the cache. Only where the tensor's type is that of
// the sums: a 16-bit result has been rounded already.
#pragma once

#include "cpu/kernels/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class T>
void finish_in_place(const Correlation& p, T* out, int64_t count) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    if (p.residual) {
      const T* more = static_cast<const T*>(p.residual) + (out - static_cast<const T*>(p.dst));
      for (int64_t i = 0; i < count; ++i) out[i] += more[i];
    }
    activate_piecewise(out, count, p.activation, T(p.slope));
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
