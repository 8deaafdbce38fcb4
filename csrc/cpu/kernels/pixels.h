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

constexpr int64_t kAhead = 2048;  // elements: how far ahead of their use things are asked for

// Asks for memory that may lie past the end of a tensor.
template <int64_t Bytes, bool Write>
inline __attribute__((always_inline)) void prefetch(const void* from) {
#pragma GCC unroll 32
  for (int64_t at = 0; at < Bytes; at += 64) __builtin_prefetch(static_cast<const char*>(from) + at, Write, 3);
}

// The outputs of a phase all of whose taps are inside.
inline Range inner_outputs(const PhaseAxis& p, int64_t in) {
  const int64_t low = p.first, high = p.first + (p.taps - 1) * p.apart;
  const Range left = inside(low, p.mul, in, p.outputs), right = inside(high, p.mul, in, p.outputs);
  const int64_t first = most(left.first, right.first);
  return {first, most(first, least(left.last, right.last))};
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
