// The kernels of one instruction set. csrc/cpu/kernels/*.cpp are compiled once per instruction set, with
// FASTCONV_ISA naming the namespace; isa.cpp picks the best set that this machine can run.
#pragma once

#include "cpu/geometry.h"
#include "cpu/parallel.h"

namespace fastconv::cpu {

struct Kernels {
  const char* isa;
  int vector_bytes;
  Task direct_correlation;      // Correlation; a task is one row of one output channel
  Task direct_weight_gradient;  // WeightGradient; a task is one (k, c) filter
  Task bias_gradient;           // BiasGradient; a task is one channel
  Task planar_depthwise;        // PlanarDepthwise
  Task rows_depthwise;          // RowsDepthwise
  Task rows_gradient;           // RowsGradient
  Task pixel_depthwise;         // PixelDepthwise
  Task pixel_pack;
  Task planar_gradient;         // PlanarGradient
  Task pixel_gradient;          // PixelGradient
  Task depthwise_gradient_sum;  // GradientSum
  Task interleaved_pack;        // InterleavedDepthwise
  Task interleaved_depthwise;
  Task interleaved_gradient;  // InterleavedGradient
  Task blocked_pack;          // Blocked
  Task blocked;
  Task blocked_gradient;  // BlockedGradient
  Task max_pool;          // Pooling; a task is one row of all channels of a sample, or of one channel (NCHW)
  Task max_pool_dgrad;
  Task max_pool_scatter;  // Pooling; a task is one plane, or kPoolChannels of them in NHWC
  Task max_pool_gather;   // likewise
  Task max_unpool;        // likewise
  Task max_unpool_pick;
  Task max_gradient;  // MaxGradient
  Task average_pool;
  Task max_pool_channels;  // WindowPooling, fprop and dgrad; a task is one row
  Task max_pool_rows;      // fprop; a task is a band
  Task average_pool_channels;
  Task average_pool_rows;
};

// Of the best instruction set here.
const Kernels& kernels();

}  // namespace fastconv::cpu
