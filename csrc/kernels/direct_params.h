// What the direct convolution kernels are told. Plain data: computed once by the planner, passed by value at each
// launch. All strides are in elements; a tensor's spatial axes are depth, height, width.
#pragma once

#include <cstdint>

#include "fastconv/activation.h"

namespace fastconv::kernels {

// How a tensor is walked. `vector`: 16 bytes (at most 4 elements) at a time along the channels.
enum class Access : uint8_t { nchw, nhwc, nhwc_vector };

// One tensor with a batch, channels in groups, and three spatial axes.
struct Strides {
  int64_t batch, group, channel, axis[3];
};

// One spatial axis of a gather convolution: output position i and tap r meet at a source coordinate.
//   fprop  coordinate = i * stride - pad + r * dilation
//   dgrad  coordinate = (i + pad - r * dilation) / stride where that is whole. The positions i = f + stride * j of one
//          *phase* f meet the taps r0, r0 + modulus, ... only, so that a phase is a convolution of stride 1 and no
//          product with a zero is computed.
struct DirectAxis {
  int source_extent, out_extent, taps;
  int stride, pad, dilation;
  // dgrad only: gcd(stride, dilation), modulus = stride / gcd, inverse of dilation / gcd modulo `modulus`.
  int gcd, modulus, inverse;
  int phases;  // 1 in fprop, at most `stride` in dgrad
};

// fprop: source x, out y, rows are output channels, `channels` input channels (both per group); dgrad: source gy, out
// gx, the other way round.
struct GatherParams {
  const void* source;
  const void* filter;
  const void *bias, *residual;  // null: none; the residual lies as the output does
  Activation activation;
  double slope;
  void* out;
  bool transposed;     // dgrad
  bool vector_stores;  // out is aligned so that whole vectors along its contiguous axis can be stored
  int rows, channels, groups;
  int64_t batch;
  int row_tiles, column_tiles;  // of one group and phase; the grid is phases * groups * column_tiles * row_tiles blocks
  DirectAxis axis[3];
  Strides source_strides, out_strides;  // out_strides.channel: from row to row
  int64_t filter_group, filter_row, filter_channel, filter_axis[3];
};

// gw[k, (c, r, s)] = sum over (n, p, q) of gy[n, k, p, q] * x[n, c, p * stride - pad + r * dilation, ...]; the columns
// (c, r, s) are counted in the weight's memory order.
struct WgradParams {
  const void* x;
  const void* gy;
  void* out;     // the weight gradient (one slice), or the accumulators of all slices [slice][k][column]
  bool partial;  // out holds accumulators
  bool vector_stores;
  int rows, channels, groups, columns;  // per group: output channels, input channels, channels * taps
  int64_t batch;
  int row_tiles, column_tiles, slices;  // the grid is slices * groups * column_tiles * row_tiles blocks
  int64_t slice_length;                 // positions (n, p, q) summed by one slice: a multiple of the tile's depth
  DirectAxis axis[3];                   // as in fprop
  Strides x_strides, gy_strides;
};

}  // namespace fastconv::kernels
