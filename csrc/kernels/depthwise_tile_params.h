// What the tiled depthwise kernels are told, and the planner's door to them. Lengths and offsets are in elements.
#pragma once

#include "device/launch.h"
#include "fastconv/problem.h"
#include "kernels/direct_params.h"
#include "kernels/divisor.h"

namespace fastconv::kernels {

// The taps that the outputs f, f + phases, f + 2 * phases, ... of an axis meet: output f + phases * j meets tap k, the
// filter's filter_first + k * filter_step, at source coordinate first + j * step + k * spacing.
struct TileTaps {
  int first, taps, filter_first, filter_step;
};

struct TileAxis {
  int source_extent, out_extent;
  int step, spacing, phases;
  TileTaps phase[2];
  int tile;   // outputs, a multiple of `phases` where there are several tiles
  int patch;  // source coordinates staged: min(max(origin + index * advance, lowest), highest) and on
  int origin, advance, lowest, highest;
  Divisor by_tiles;
};

// How a block's source lies in shared memory: [plane][d][h][column][channel], only what the source has. Channels last,
// a plane is a sample and `chunk` of its channels; channels first, one channel of a sample.
struct DepthwiseTile {
  TileAxis axis[3];
  int64_t outer, outer_stride;  // planes of the source
  int planes;                   // of a block
  int channels, chunk;          // of a plane (channels first: 1), of them in a block
  int row_pitch, slice_pitch, plane_pitch;
  PadMode pad_mode;
  int half;     // stride 2: the odd columns lie this many after the even ones; 0: as in the source
  int aligned;  // patches start at multiples of this many columns
  Divisor by_channel_blocks;
  // The copies to shared memory, `copy_bytes` each: of a row, and of one column's channels.
  int copy_bytes, copy_columns, row_copies;
  bool by_halves;   // copies of the even columns come first
  int copies_unit;  // row_copies is a multiple of it
  Divisor by_row_copies, by_channel_copies, by_rows, by_slices;
};

struct DepthwiseTiledParams {
  GatherParams gather;  // addresses, strides and epilogue
  DepthwiseTile tile;
  int64_t out_stride;  // from plane to plane
  bool channels_last;
  // Several filters a channel: fprop has `spread` outputs for a channel of the source, dgrad an output for every
  // `summed` of them. The other one is 1. plane_spread: spread, where channels are planes.
  int spread, summed, plane_spread;
  int filters, filter_pitch, taps;  // staged of a block; from one to the next; of each
  int outputs;                      // channels of a plane of the result; channels first: 1
  int filter_rows, filter_columns;
  Divisor by_taps, by_channels, by_filters, by_spread, by_summed;  // channels of the result; of y
  int patch_bytes;  // from the start of shared memory to the zero row, which the patch follows
  // The work of a block, fastest first: channel vectors, columns, planes, slices, strips.
  int pairs;                    // channels last, two phases: the even columns come first, so many; 0: in order
  int least_columns;            // of the filter, that every lane goes through: those of both phases stay together
  int plane_step, plane_mask;   // planes follow each other so far apart, modulo their number
  int work, strips, positions;  // strips of a phase of the height, and its positions
  Divisor by_vectors, by_columns, by_planes, by_depth, by_spacing;
  // Channels first, narrow rows: sums go through shared memory, from out_bytes on, so that they leave side by side.
  bool staged_out;
  int out_bytes, out_pitch;  // of planes
  Divisor by_slab;           // outputs of one slice of a plane
};

// wgrad, see depthwise_sums.h.
struct DepthwiseSumsParams {
  const void *x, *gy;
  void* out;     // the weight gradient (one slice), or the accumulators of all slices [slice][channel][tap]
  bool partial;  // out holds accumulators
  DepthwiseTile x_tile, gy_tile;
  Strides x_strides, gy_strides;
  int gy_bytes;  // from the start of shared memory to the gradients' row of zeros
  bool channels_last;
  int channels, filters;  // channels of x and of y
  // Threads: `share` for each of `slots`, which are the block's channel vectors (channels last) or planes, of y.
  int slots, share;
  // The places of a tile that a slot's threads share, fastest first: columns, samples (channels last), slices, strips.
  int places, positions;
  Divisor by_slots, by_share, by_columns, by_samples, by_depth, by_spacing, by_per;
  int filter[3];                                         // taps
  Divisor by_row_tiles, by_column_tiles, by_depth_taps;  // of the filter
  int items, items_a_slice;                              // tiles, of the slots' channels; summed by one block
  int lanes;                                             // that add up one result: a power of two
};

constexpr int depthwise_tile_threads = 128, depthwise_strip = 7;
// Channels that a thread takes: a word.
template <class T>
constexpr int depthwise_vector = 4 / int(sizeof(T));
// Rows of the filter that a pass over a strip takes, and strides along the height, that exist.
constexpr int depthwise_strip_taps[] = {3, 5, 7}, depthwise_strip_steps[] = {1, 2};

template <class T>
void launch_depthwise_tiled(bool vectors, int strip_taps, int step, const device::Launch& launch,
                            const DepthwiseTiledParams& params);

// From tap to tap of the threads' sums in shared memory: 32 results' are in different banks, about.
FC_HOST_DEVICE constexpr int depthwise_closing_pitch(int taps) { return depthwise_tile_threads + (taps == 3 ? 4 : 1); }

// `taps`: the filter's rows and columns that one block takes, of depthwise_strip_taps.
template <class T>
void launch_depthwise_sums(bool vectors, int taps, int step, const device::Launch& launch,
                           const DepthwiseSumsParams& params);

}  // namespace fastconv::kernels
