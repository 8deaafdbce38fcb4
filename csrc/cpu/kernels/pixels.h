// Where the pixel kernels (NHWC, cpu/depthwise.h) find their sources: taps on padding are left out, so nothing is
// copied or padded.
#pragma once

#include "cpu/depthwise.h"
#include "cpu/kernels/convert.h"
#include "cpu/kernels/range.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// A row of the source, and the first tap of the filter row that reads it.
template <class T>
struct SourceRow {
  const T* source;
  int64_t tap;
};

// The rows that output (d, h) reads, in the order of the filter; returns how many.
template <class T>
int64_t source_rows(const AxisMap (&axis)[3], const PhaseAxis* const (&phase)[3], int64_t d, int64_t h, const T* sample,
                    const Strides& strides, SourceRow<T>* rows) {
  const PhaseAxis &depth = phase[0][d % axis[0].div], &height = phase[1][h % axis[1].div];
  int64_t count = 0;
  for (int64_t t = 0; t < depth.taps; ++t) {
    const int64_t slice = depth.first + d / axis[0].div * depth.mul + t * depth.apart;
    if (slice < 0 || slice >= axis[0].in) continue;
    for (int64_t r = 0; r < height.taps; ++r) {
      const int64_t row = height.first + h / axis[1].div * height.mul + r * height.apart;
      if (row < 0 || row >= axis[1].in) continue;
      const int64_t tap = (depth.tap + t * depth.tap_step) * axis[1].taps + height.tap + r * height.tap_step;
      rows[count++] = {sample + slice * strides.at[0] + row * strides.at[1], tap * axis[2].taps};
    }
  }
  return count;
}

constexpr int kTile = 8;  // outputs that are summed together

// Calls run(first, count) for tiles of about as many outputs each, at most `most_of`.
template <class Run>
inline __attribute__((always_inline)) void for_tiles(int64_t outputs, int64_t most_of, Run run) {
  const int64_t tiles = (outputs + most_of - 1) / most_of, each = outputs / most(1, tiles),
                longer = outputs - tiles * each;
  for (int64_t t = 0, first = 0, count; t < tiles; ++t, first += count) run(first, count = each + (t < longer));
}

// Bits [first, last), of which those below 0 or above 31 do not exist.
inline uint32_t bits(int64_t first, int64_t last) {
  const auto below = [](int64_t i) { return (uint64_t(1) << most(0, least(i, 32))) - 1; };
  return uint32_t(below(last) & ~below(first));
}

// Its bits are tested as they are needed, not beforehand, which would take a register or a place in memory for each.
inline __attribute__((always_inline)) void keep_in_register(uint32_t& bits) { asm volatile("" : "+r"(bits)); }

// Asks for `Pixels` pixels from element `at` on of the `fresh` rows that this output row is the first to read: what the
// next tile needs. They may lie past the end of the tensor.
template <int Pixels, class T>
inline __attribute__((always_inline)) void ask_for(const SourceRow<T>* rows, int64_t count, int64_t fresh, int64_t at,
                                                   int64_t pixel) {
  for (int64_t r = most(0, count - fresh); r < count; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p) __builtin_prefetch(rows[r].source + at + p * pixel);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
