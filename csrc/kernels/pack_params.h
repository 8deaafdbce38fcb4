// What the packing kernels are told: see pack.h.
#pragma once

#include <cstdint>

#include "device/launch.h"
#include "fastconv/dtype.h"
#include "kernels/direct_params.h"

namespace fastconv::kernels {

// to[o][i][position][c] = from[o][i][c - shift][position'] where both exist, else 0, for `outer` x `inner` matrices of
// `positions` x `padded` elements. A tensor of activations: (sample, group); the weights: (group, output channel).
struct PackParams {
  const void* from;
  void* to;
  int64_t positions;
  int channels, padded;  // of a matrix of `from`; of `to`, for vector_stores whole 16-byte vectors or less than one
  int run = 1, from_run = 1,
      run_first = 0;  // a run of `to`'s positions holds `from_run` of `from` at run_first, then 0
  int64_t outer;
  int inner, inner_valid;  // matrices from `inner_valid` on are all zero
  int shift_rows;          // shift = i / shift_rows * channels: groups on the diagonal of one matrix
  int64_t from_outer, from_inner, from_channel, from_position;
  int64_t to_outer, to_inner, to_position;
  bool vector_loads, vector_stores;  // along positions; along channels
  int64_t position_tiles;
  int channel_tiles;  // the grid is outer * inner * position_tiles * channel_tiles blocks
};

// Where a position or tap of `to` lies in `from`; negative for nowhere.
FC_HOST_DEVICE int64_t position_in_run(int64_t position, int run, int from_run, int run_first) {
  if (run == from_run) return position;
  const int64_t row = position / run;
  const int at = int(position - row * run) - run_first;
  return unsigned(at) < unsigned(from_run) ? row * from_run + at : -1;
}

// The way back, for wgrad: out[row][c][tap] = narrow(sum over slices s, in their order, of partial[s][row][tap'][c +
// shift]), with shift = row % (merged * group_rows) / group_rows * channels.
struct UnpackParams {
  const void* partial;
  void* out;
  int64_t rows;
  int slices, taps, channels, padded;
  int run = 1, from_run = 1, run_first = 0;  // of taps, as above
  int group_rows, merged;
  int64_t out_row, out_channel, out_tap;
};

// columns[position][group][unit]: the window of each position in the weights' order, (t r s c) or (c t r s), of
// `row_elements` elements, then zeros. A unit is 16 bytes of a tap's channels, or one element.
struct Im2colParams {
  const void* x;
  void* columns;
  bool channels_last;
  int unit_elements, row_units, row_elements, channels, groups, column_tiles;
  int64_t batch;
  DirectAxis axis[3];  // as in fprop
  Strides x_strides;
};

constexpr int pack_threads = 256;
constexpr int im2col_positions = 128;  // of a block, and 32 units

// A block's tile: 128 bytes of channels at 64 positions, or, where at most 16 bytes are all there is, at 256.
struct PackTile {
  int channels, positions;
};
FC_HOST_DEVICE constexpr PackTile pack_tile(int64_t element, int64_t padded) {
  return padded * element <= 16 ? PackTile{int(16 / element), 256} : PackTile{int(128 / element), 64};
}

void launch_pack(int64_t element, const device::Launch& launch, const PackParams& params);
// `unit`: bytes.
void launch_im2col(int64_t unit, const device::Launch& launch, const Im2colParams& params);
template <class T>
void launch_unpack(const device::Launch& launch, const UnpackParams& params);

}  // namespace fastconv::kernels
