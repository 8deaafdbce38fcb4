// What the depthwise kernels are told, and the planner's door to them.
#pragma once

#include "device/launch.h"
#include "fastconv/problem.h"
#include "kernels/direct_params.h"
#include "kernels/divisor.h"

namespace fastconv::kernels {

struct DepthwiseParams {
  GatherParams gather;  // one row and channel a group: the groups are the channels
  Divisor by_stride[3], by_channels, by_taps;
  int positions_a_thread;
  // Channels last only: vectors of channels side by side in a block, and blocks side by side along the channels.
  int lanes, channel_blocks;
  Divisor by_lanes;
};

// Elements that padding repeats, see depthwise_images.h: on an axis [0, low) and [high, extent), which may be all of
// it.
struct RimAxis {
  int pad_low, pad_high, low, high;
};

struct DepthwiseImagesParams {
  GatherParams gather;  // dgrad, of one row a group; of a fold, by one tap, from the padded gradient
  Divisor by_stride[3];
  PadMode mode;
  RimAxis rim[3];
  bool folds, channels_last;
  int slab[2], elements;  // of a plane: of its first two slabs, and in all
};

constexpr int depthwise_threads = 256, depthwise_taps = 9;  // taps that one block of wgrad sums

// `channels_last` and, there, `vectors` of channels.
template <class T>
void launch_depthwise(bool channels_last, bool vectors, const device::Launch& launch, const DepthwiseParams& params);
// WgradParams: rows = channels = 1; columns are the taps; the grid is slices * tap chunks * (channels, or 32 of them).
template <class T>
void launch_depthwise_wgrad(bool channels_last, const device::Launch& launch, const WgradParams& params);

template <class T>
void launch_depthwise_images(const device::Launch& launch, const DepthwiseImagesParams& params);

}  // namespace fastconv::kernels
