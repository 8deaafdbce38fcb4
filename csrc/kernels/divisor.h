// Division by a number known at launch: a multiplication and a shift (Granlund and Montgomery, PLDI 1994). Exact for
// dividends below 2^31: with s = ceil(log2 d) and m = ceil(2^(31+s) / d), n / d = n * m >> (31 + s).
#pragma once

#include <cstdint>

#include "fastconv/dtype.h"

namespace fastconv::kernels {

struct Divisor {
  uint32_t value = 1, multiplier = 0x80000000u;
  int shift = 31;

  Divisor() = default;
  // 1 <= divisor < 2^31.
  explicit Divisor(int64_t divisor) : value(uint32_t(divisor)) {
    shift = 31;
    while ((int64_t(1) << (shift - 31)) < divisor) ++shift;
    multiplier = uint32_t(((uint64_t(1) << shift) + value - 1) / value);
  }

  FC_HOST_DEVICE int divide(int n) const { return int(uint64_t(uint32_t(n)) * multiplier >> shift); }
  FC_HOST_DEVICE int remainder(int n, int quotient) const { return n - quotient * int(value); }
};

}  // namespace fastconv::kernels
