// What the pooling kernels are told, and the planner's door to them. All strides are in elements.
#pragma once

#include <cstdint>

#include "device/launch.h"
#include "kernels/divisor.h"

namespace fastconv::kernels {

// Windows are stride / per elements apart (fastconv/problem.h); per is 1 but in adaptive pooling.
struct PoolAxis {
  int in, out, window, stride, per, pad, dilation;
  Divisor by_in, by_out, by_window, by_stride, by_per, by_dilation;
};

// A tensor is `outer` pieces of volume(extent) * channels elements: channels first, a piece is a plane and channels is
// 1; channels last, a piece is a sample. Its elements move as vectors along the contiguous axis.
struct PoolParams {
  const void* src;
  void* dst;
  void* offsets;     // null: none; uint8, or int32 if wide_offsets
  int64_t* indices;  // null: none
  bool wide_offsets;
  int covering[3];  // windows over one position, at most
  bool count_include_pad;
  int64_t divisor_override;  // 0: none
  int64_t uniform_divisor;   // of every window; 0: they differ
  int64_t outer;
  int channels;                          // of a piece
  int channel_vectors;                   // channels / vector length
  Divisor by_channel_vectors, by_units;  // units: vectors of one piece of the tensor the threads are laid over
  int units;
  PoolAxis axis[3];
};

// The staged kernels, channels first: a block writes a box of `tile` positions in each of `planes` planes, and stages
// the box of at most `patch` positions that they read. `runs` of what it stages are contiguous in memory.
struct StagedPoolParams {
  PoolParams pool;
  int planes;
  int tile[3], patch[3];
  int source[3];  // the read tensor's extents: in for fprop, out for dgrad
  enum Runs : int { planes_at_once, rows_of_a_slice, single_rows } runs;
  int run_count, run_elements;   // of a block, at most
  int phases;                    // fprop: source rows that are this far apart lie side by side once reduced
  int phase_pitch, slice_pitch;  // reduced elements from a phase to the next, from a slice to the next
  int lanes_of_row;              // fprop: threads that reduce a row, some idle: warps begin with rows
  bool swizzle;                  // fprop: every second pair of elements is exchanged, see pool_staged.h
  int64_t source_elements;
  Divisor by_tile[3], by_tiles[3], by_patch_rows, by_patch_slices, by_phases, by_lanes;
};

// The marching kernels, channels last, windows in one slice of depth: a block writes `rows` rows of `tile` pixels of
// `vectors` vectors of channels, and walks down the rows that they read, `batch` at a time.
struct MarchPoolParams {
  PoolParams pool;
  int vectors, tile, patch, rows, batch, slots;  // patch: pixels of a source row, at most; slots: rows of the ring
  Divisor by_vectors, by_tile, by_patch, by_slots, by_chunks, by_tiles, by_segments;
};

// The global kernel: `lanes` threads side by side along the channels (1 if channels first), `groups` of them along the
// plane, `windows` windows in a block.
struct GlobalPoolParams {
  PoolParams pool;
  int lanes, groups, windows;
  int64_t steps;  // vectors (channels first) or pixels of a plane
  Divisor by_lanes, by_groups, by_chunks;
};

// Unpooling: planes of `large` and of `small` elements, `channels` of them to a piece (channels last) or one.
struct UnpoolParams {
  const void* src;
  void* dst;
  const int64_t* indices;
  int64_t pieces, channels;
  int large, small;
};

constexpr int pool_threads = 256;
template <class T>
constexpr int pool_vector = 16 / int(sizeof(T));

enum class PoolWork : uint8_t { forward, backward, gather };

// Vectors or single elements, max or average.
template <class T>
void launch_pool(PoolWork work, bool average, bool vectors, const device::Launch& launch, const PoolParams& params);
template <class T>
void launch_staged_pool(PoolWork work, bool average, bool vectors, const device::Launch& launch,
                        const StagedPoolParams& params);
template <class T>
void launch_unpool(bool pick, const device::Launch& launch, const UnpoolParams& params);
template <class T>
void launch_march_pool(PoolWork work, bool average, const device::Launch& launch, const MarchPoolParams& params);
template <class T>
void launch_global_pool(bool average, bool vectors, bool planar, const device::Launch& launch,
                        const GlobalPoolParams& params);

}  // namespace fastconv::kernels
