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
  double hertz = 1.83e9;                          // at which that holds: 4096 FLOP a cycle and SM
  double bytes_per_second = 3.0e12;               // DRAM, reachable
  double l2_bytes = 50e6;
  double launch_microseconds = 3;  // of a kernel, with its start-up and tail
  // What an SM holds (CUDA C++ Programming Guide, compute capability 9.0). Registers are dealt to a warp 256 at a time;
  // the system keeps a KB of shared memory for each block.
  int registers = 65536, threads = 2048, blocks = 32, shared_bytes = 228 * 1024;
};
constexpr Device h100;

// What a block asks of an SM; no threads: not modelled.
struct Footprint {
  int threads = 0, registers = 0, shared_bytes = 0;  // registers: of a thread, see registers.h
};

// One kernel: `blocks` equal blocks that each do `block_flops` of arithmetic (padding of the tile included), at
// `efficiency` of an SM's peak, with `bytes` of DRAM traffic in all, and `l2_bytes` between L2 and the SMs.
struct Work {
  double blocks = 0, block_flops = 0, efficiency = 1, bytes = 0;
  double peak = 0;  // FLOP/s of the chip; 0: of the CUDA cores at the dtype
  double l2_bytes = 0;
  Footprint footprint = {};
};

// Tells the grid, how many such blocks an SM holds at once, and what is used up first.
inline void set_occupancy(Cost& cost, double blocks, const Footprint& block, const Device& device = h100) {
  cost.blocks = blocks, cost.registers = block.registers;
  const int warps = (block.threads + 31) / 32, warp_registers = (block.registers * 32 + 255) / 256 * 256;
  const std::pair<int, const char*> limits[] = {{device.registers / (warps * warp_registers), "registers"},
                                                {device.shared_bytes / (block.shared_bytes + 1024), "shared memory"},
                                                {device.threads / (32 * warps), "threads"},
                                                {device.blocks, "blocks"}};
  const auto& [resident, limit] = *std::min_element(std::begin(limits), std::end(limits));
  cost.blocks_per_sm = resident, cost.occupancy_limit = limit;
  cost.occupancy = double(resident * 32 * warps) / device.threads;
  cost.waves = std::ceil(cost.blocks / (resident * device.multiprocessors));
}

// L2 traffic and occupancy are told, but are in no time: the efficiencies stand for them until a GPU has measured both.
inline Cost roofline(DType dtype, const Work& work, const Device& device = h100) {
  const double cores = dtype == DType::f64 ? device.fp64_flops : device.fp32_flops;
  const double peak = (work.peak > 0 ? work.peak : cores) / device.multiprocessors;
  // Blocks of the busiest SM, resident together or one after the other: they share its units.
  const double flops = std::ceil(work.blocks / device.multiprocessors) * work.block_flops;
  const double memory = work.bytes / device.bytes_per_second;
  Cost cost{device.launch_microseconds + 1e6 * std::max(flops / (peak * work.efficiency), memory),
            work.blocks * work.block_flops, work.bytes};
  cost.l2_bytes = std::max(work.l2_bytes, work.bytes);
  cost.cycles = flops / peak * device.hertz;
  if (work.footprint.threads > 0) set_occupancy(cost, work.blocks, work.footprint, device);
  return cost;
}

// Two kernels, one after the other; blocks, waves and occupancy are those of the first, which does the work.
inline Cost operator+(Cost a, const Cost& b) {
  a.microseconds += b.microseconds, a.flops += b.flops, a.bytes += b.bytes;
  a.l2_bytes += b.l2_bytes, a.cycles += b.cycles;
  return a;
}

}  // namespace fastconv::planner
