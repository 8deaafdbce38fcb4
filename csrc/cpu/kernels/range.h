// Which taps of an output, or outputs of a tap, lie inside the source.
#pragma once

#include "cpu/kernels/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

struct Range {
  int64_t first, last;  // half open
};

inline int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : 0; }  // 0 for what is negative

// The i in [0, count) for which 0 <= start + i*step < end.
inline Range inside(int64_t start, int64_t step, int64_t end, int64_t count) {
  const int64_t first = least(ceil_div(-start, step), count);
  return {first, most(first, least(ceil_div(end - start, step), count))};
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
