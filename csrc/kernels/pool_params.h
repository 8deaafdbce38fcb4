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
  bool count_include_pad;
  int64_t divisor_override;  // 0: none
  int64_t outer;
  int channels;                          // of a piece
  int channel_vectors;                   // channels / vector length
  Divisor by_channel_vectors, by_units;  // units: vectors of one piece of the tensor the threads are laid over
  int units;
  PoolAxis axis[3];
};

// The staged kernel: a block's outputs are a box of `tile` positions in each of `planes` planes; `patch` is the box of
// inputs they need, its width and first column multiples of the vector length.
struct StagedPoolParams {
  PoolParams pool;
  int planes;
  int tile[3], patch[3];
  Divisor by_tile[3], by_patch[3], by_tiles[3];
  int patch_vectors;  // of a row
};

constexpr int pool_threads = 256;
template <class T>
constexpr int pool_vector = 16 / int(sizeof(T));

enum class PoolWork : uint8_t { forward, backward, gather };

// Vectors or single elements, max or average.
template <class T>
void launch_pool(PoolWork work, bool average, bool vectors, const device::Launch& launch, const PoolParams& params);
template <class T>
void launch_staged_pool(bool average, bool vectors, const device::Launch& launch, const StagedPoolParams& params);

}  // namespace fastconv::kernels
