// What a GPU kernel would take: a roofline with waves. The figures are those of an H100 SXM (KERNELS: floors); they
// order candidates, they do not predict to the per cent.
#pragma once

#include <algorithm>
#include <cmath>

#include "fastconv/plan.h"

namespace fastconv::planner {

struct Device {
  double multiprocessors = 132;
  double fp32_flops = 60e12, fp64_flops = 30e12;  // CUDA cores, reachable
  double tensor_flops = 990e12;                   // 16-bit operands, by datasheet
  double bytes_per_second = 3.0e12;               // DRAM, reachable
  double l2_bytes = 50e6;
  double launch_microseconds = 3;  // of a kernel, with its start-up and tail
};
constexpr Device h100;

// One kernel: `blocks` equal blocks that each do `block_flops` of arithmetic (padding of the tile included), at
// `efficiency` of an SM's peak, with `bytes` of DRAM traffic in all.
struct Work {
  double blocks = 0, block_flops = 0, efficiency = 1, bytes = 0;
  double peak = 0;  // FLOP/s of the chip; 0: of the CUDA cores at the dtype
};

inline Cost roofline(DType dtype, const Work& work, const Device& device = h100) {
  const double cores = dtype == DType::f64 ? device.fp64_flops : device.fp32_flops;
  const double peak = work.peak > 0 ? work.peak : cores;
  const double waves = std::ceil(work.blocks / device.multiprocessors);
  const double compute = waves * work.block_flops / (peak / device.multiprocessors * work.efficiency);
  const double memory = work.bytes / device.bytes_per_second;
  return {device.launch_microseconds + 1e6 * std::max(compute, memory), work.blocks * work.block_flops, work.bytes};
}

inline Cost operator+(const Cost& a, const Cost& b) {
  return {a.microseconds + b.microseconds, a.flops + b.flops, a.bytes + b.bytes};
}

}  // namespace fastconv::planner
