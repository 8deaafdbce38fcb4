// What the CPU kernels are told: plain structs of extents, strides and addresses. They are filled in once per plan
// (addresses once per run) and read by code that is compiled for several instruction sets, so nothing here has a
// constructor, a virtual or a container.
#pragma once

#include "fastconv/padding.h"

namespace fastconv::cpu {

// How one spatial axis of the output looks into the source. Output o, tap t reads source (o*mul + add + t*step) / div,
// where that is a whole number inside [0, in). One formula serves both directions: a forward window has mul = stride,
// step = dilation, div = 1; its transpose (dgrad) has mul = 1, step = -dilation, div = stride.
//
// Adaptive pooling is the exception: output o reads the sources [begin(o), end(o)), and the formula is its own
// transpose, with mul and div exchanged, for o reads i where [o, o + 1) / out and [i, i + 1) / in overlap. The taps are
// those of the window, counted from its first element.
struct AxisMap {
  int64_t out, in, taps, mul, add, step, div;
  bool adaptive = false;
  PadMode pad_mode = PadMode::zeros;  // of a forward window; what does not say otherwise pads with zeros

  int64_t begin(int64_t o) const { return o * mul / div; }
  int64_t end(int64_t o) const { return ((o + 1) * mul + div - 1) / div; }
  // Of a forward window: where tap 0 lies, if need be outside the source.
  int64_t origin(int64_t o) const { return adaptive ? begin(o) : o * mul + add; }

  int64_t pads_before() const { return -add; }  // of a forward window
  // The source index, or -1 if tap t does not exist for output o. Of adaptive windows, forward only.
  int64_t source(int64_t o, int64_t t) const {
    if (adaptive) return t < end(o) - begin(o) ? begin(o) + t : -1;
    const int64_t at = o * mul + add + t * step;
    if (at < 0 || (div != 1 && at % div != 0)) return -1;
    const int64_t index = div == 1 ? at : at / div;
    return index < in ? index : -1;
  }

  // Of a forward window: how many elements output o covers; the low and high padding count if asked, what hangs over
  // them in ceil_mode never does (torch's rule).
  int64_t covered(int64_t o, bool padding) const {
    if (adaptive) return end(o) - begin(o);
    const int64_t begin = o * mul + add, end = begin + taps < in - add ? begin + taps : in - add;
    return padding ? end - begin : (end < in ? end : in) - (begin > 0 ? begin : 0);
  }
};

inline AxisMap window_axis(int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  return {out, in, taps, stride, -pad, dilation, 1};
}

// Swaps the two ends: who reads whom through the same tap.
inline AxisMap transpose(const AxisMap& axis) {
  return {axis.in, axis.out, axis.taps, axis.div, -axis.add, -axis.step, axis.mul, axis.adaptive};
}

// Element strides of an activation tensor: sample, channel, and the three spatial axes.
struct Strides {
  int64_t n, c, at[3];
};

inline Strides dense_strides(Layout layout, int64_t channels, const Axes& extent) {
  const int64_t plane = extent[1] * extent[2], all = extent[0] * plane;
  if (layout == Layout::nchw) return {channels * all, all, {plane, extent[2], 1}};
  return {channels * all, 1, {plane * channels, extent[2] * channels, channels}};
}

// dst[n, g, kd] = bias + sum over cs and taps of src[n, g, cs] * w[kd, cs]: fprop, and dgrad by the transposed axes.
struct Correlation {
  DType dtype;
  Layout layout;
  int64_t n, groups, src_channels, dst_channels;  // channels per group
  AxisMap axis[3];
  Strides src_strides, dst_strides;
  int64_t w_group, w_dst, w_src, w_tap[3];  // element strides of the weight
  const void* src;
  const void* w;
  const void* bias;
  void* dst;
  // fprop's epilogue: dst = activation(... + residual), which lies as dst does, or is null.
  const void* residual;
  Activation activation;
  double slope;
};

// gw[k, c, tap] = sum over n and outputs of gy[n, k] * x[n, c]. `axis` maps outputs to inputs (forward).
struct WeightGradient {
  DType dtype;
  Layout layout;
  int64_t n, groups, c, k;  // channels per group
  AxisMap axis[3];
  Strides x_strides, gy_strides;
  int64_t w_group, w_k, w_c, w_tap[3];
  const void* x;
  const void* gy;
  void* gw;
  void* partial;  // workspace of the two-stage reductions
};

// gb[k] = sum of gy over the batch and `plane` output positions.
struct BiasGradient {
  DType dtype;
  Layout layout;
  int64_t n, k, plane;
  const void* gy;
  void* gb;
};

// Pooling, either way. `axis` maps the written tensor to the read one: forward for fprop and gather, transposed for
// dgrad. `forward` is always the window itself.
struct Pooling {
  DType dtype;
  Layout layout;
  int64_t n, c;
  AxisMap axis[3], forward[3];
  Strides src_strides, dst_strides;
  int64_t offset_bytes;
  bool backward, count_include_pad;
  int64_t divisor_override;
  const void* src;
  void* dst;
  void* offsets;
  int64_t* indices;
};

// Channels of a task of max-pool's scatter and gather in NHWC.
constexpr int64_t kPoolChannels = 64;

inline int64_t extent(const AxisMap (&axis)[3]) { return axis[0].out * axis[1].out * axis[2].out; }

}  // namespace fastconv::cpu
