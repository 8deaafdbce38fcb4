// What the Toeplitz kernel is told, and the planner's door to it. Lengths, pitches and offsets are in elements.
#pragma once

#include "device/launch.h"
#include "kernels/direct_params.h"
#include "kernels/divisor.h"

namespace fastconv::kernels {

// One filter swept over one image, for every plane (a channel of a sample), channels first, stride 1:
//   out[a, b] = sum over (r, s)  filter[r, s]  image[a + r - pad_rows, b + s - pad_columns]
//   fprop  filter w, image x, out y;   dgrad  filter w turned by 180 degrees, image gy, out gx
//   wgrad  filter gy, image x, out gw, summed over the samples
struct ToeplitzParams {
  const void *image, *filter;
  GatherParams gather;  // fprop, dgrad: bias, residual, activation, out
  void* out;            // wgrad: the accumulators of all slices [slice][channel][tap], or the gradient
  bool sums, partial;   // wgrad; into accumulators
  int channels;
  int image_rows, image_columns, filter_rows, filter_columns, out_rows, out_columns, pad_rows, pad_columns;
  int64_t image_plane, filter_plane, out_plane;  // from one to the next
  Divisor by_across, by_down, by_channels;       // tiles of a plane
  // A block's items: bands of a filter's rows, of one sample after the other; in fprop and dgrad the one.
  int items, items_a_slice, band_rows;
  Divisor by_bands;
  // Shared memory: the filter's band twice, `filter_copy` apart, then the patch.
  int chunks;  // of 16 columns, that hold a row of the filter moved by up to shift + 15
  int shift;   // the patch begins so many columns early, where a copy does
  int filter_pitch, filter_copy, patch_rows, patch_pitch;
  int copy_bytes;                           // to the patch: 16, 4 or 2
  Divisor by_filter_columns, by_patch_row;  // by_patch_row: copies
};

constexpr int toeplitz_threads = 128, toeplitz_warps = toeplitz_threads / 32;
constexpr int toeplitz_sizes[] = {16, 32};  // rows and columns of a block's outputs

template <class T>
void launch_depthwise_toeplitz(int size, const device::Launch& launch, const ToeplitzParams& params);

}  // namespace fastconv::kernels
