// What one block of an implicit GEMM computes, whatever multiplies it: its tile, group and stride phase, and where
// positions and taps lie in the tensors.
#pragma once

#include "kernels/direct_params.h"
#include "kernels/lattice.h"

namespace fastconv::kernels {

// One axis of the convolution that a block computes: positions and taps of its phase.
struct AxisPhase {
  int positions, taps;            // how many
  int origin, step;               // source coordinate of position 0 and tap 0; from position to position
  int tap_step;                   // ... from tap to tap
  int out_first, out_step;        // output coordinate of position 0; from position to position
  int filter_first, filter_step;  // the filter's tap of tap 0; from tap to tap

  FC_DEVICE static AxisPhase fprop(const DirectAxis& a) {
    return {a.out_extent, a.taps, -a.pad, a.stride, a.dilation, 0, 1, 0, 1};
  }
  FC_DEVICE static AxisPhase dgrad(const DirectAxis& a, int phase) {
    const int positions = (a.out_extent - phase + a.stride - 1) / a.stride, shifted = phase + a.pad;
    // Taps with r * dilation = shifted (mod stride).
    const int first = int(int64_t(shifted / a.gcd % a.modulus) * a.inverse % a.modulus);
    const bool none = shifted % a.gcd != 0 || first >= a.taps;
    const int taps = none ? 0 : (a.taps - first + a.modulus - 1) / a.modulus;
    const int origin = none ? 0 : (shifted - first * a.dilation) / a.stride;
    return {positions, taps, origin, 1, -(a.dilation / a.gcd), phase, a.stride, first, a.modulus};
  }
};

// What a block of the gather kernel computes.
struct GatherBlock {
  int group, first_row;
  int64_t first_column;
  AxisPhase axis[3];

  FC_DEVICE GatherBlock(const GatherParams& p, int tile_rows, int tile_columns) {
    int index = fresh_block_index();
    first_row = index % p.row_tiles * tile_rows, index /= p.row_tiles;
    first_column = int64_t(index % p.column_tiles) * tile_columns, index /= p.column_tiles;
    group = index % p.groups, index /= p.groups;
    FC_UNROLL
    for (int i = 2; i >= 0; --i) {
      axis[i] = p.transposed ? AxisPhase::dgrad(p.axis[i], index % p.axis[i].phases) : AxisPhase::fprop(p.axis[i]);
      index /= p.axis[i].phases;
    }
  }
};

// Where a tap (channel, t, r, s) or, channels last, (t, r, s, channel) lies from its window's origin.
template <int First>
FC_DEVICE Lattice<First> tap_lattice(const AxisPhase (&axis)[3], const int64_t (&axis_stride)[3],
                                     int64_t outer_stride) {
  Lattice<First> lattice;
  lattice.base = 0;
  lattice.stride[First == 1 ? 0 : 3] = outer_stride;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    lattice.stride[First + i] = axis[i].tap_step * axis_stride[i];
    lattice.origin[i] = 0, lattice.step[i] = axis[i].tap_step;
  }
  return lattice;
}

// Where the window's origin of position (sample, d, h, w) lies.
FC_DEVICE Lattice<1> position_lattice(const AxisPhase (&axis)[3], const Strides& strides) {
  Lattice<1> lattice;
  lattice.base = 0, lattice.stride[0] = strides.batch;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    lattice.base += axis[i].origin * strides.axis[i];
    lattice.stride[i + 1] = axis[i].step * strides.axis[i];
    lattice.origin[i] = axis[i].origin, lattice.step[i] = axis[i].step;
  }
  return lattice;
}

template <int First>
FC_DEVICE Extents tap_extents(const AxisPhase (&axis)[3], int channels) {
  Extents extents;
  extents.of[First == 1 ? 0 : 3] = channels;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) extents.of[First + i] = axis[i].taps;
  return extents;
}

}  // namespace fastconv::kernels
