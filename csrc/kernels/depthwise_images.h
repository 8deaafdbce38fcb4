// dgrad of depthwise convolution whose padding repeats the input: what the elements' images in the padding received.
//
//    image:  2 1 | 0 1 2 3 4 ... 7 8 9 | 8 7     reflect, 2 elements: gx[1] = g(1) + g(-1), where g(i) is the gradient
//                                                of the padded input at i. The rim: all that may have images, here
//                                                0, 1, 2 and 7, 8, 9.
// Two ways, both after the tiled kernel, without atomics and in one order:
//   rim    the tiled kernel has taken padding for zeros: the rim's elements are computed here once more, from gy and
//          the filter, and stored over.
//   fold   the tiled kernel has put g into the workspace: all elements are added up here.
// A thread an element: it asks the index map which coordinates hold it, itself first. Lanes run along the contiguous
// axis.
#pragma once

#include "fastconv/padding.h"
#include "kernels/depthwise.h"

namespace fastconv::kernels {

// Of the elements of a plane, slab after slab: axis 0's rim and all of axes 1 and 2, then axis 0's inside with the rim
// of axis 1, then the inside of both with the rim of axis 2. Of a fold: all, as they come.
FC_DEVICE void find_in_rim(const DepthwiseImagesParams& p, int element, int (&at)[3]) {
  int slab = p.folds ? -1 : 0;
  if (slab == 0 && element >= p.slab[0]) element -= p.slab[0], slab = 1;
  if (slab == 1 && element >= p.slab[1]) element -= p.slab[1], slab = 2;
  FC_UNROLL
  for (int i = 2; i >= 0; --i) {
    const RimAxis& a = p.rim[i];
    const int extent = p.gather.axis[i].out_extent, inside = a.high - a.low;
    const int span = i < slab ? inside : i == slab ? extent - inside : extent, digit = element % span;
    element /= span;
    at[i] = i < slab ? a.low + digit : i == slab && digit >= a.low ? digit + inside : digit;
  }
}

// visit(coordinate of the source, tap) for all that meet `at`, or one of its images, on axis i. Of a fold the source is
// the padded gradient, and every coordinate meets its own through one tap.
template <class Visit>
FC_DEVICE void visit_images(const DepthwiseImagesParams& p, int i, int at, Visit visit) {
  const DirectAxis& a = p.gather.axis[i];
  const RimAxis& rim = p.rim[i];
  const int images = at < rim.low || at >= rim.high ? rim.pad_low + rim.pad_high : 0;
  for (int m = 0; m <= images; ++m) {
    const int image = m == 0 ? at : m <= rim.pad_low ? -m : a.out_extent - 1 + m - rim.pad_low;
    if (padding_source(p.mode, a.out_extent, image) != at) continue;
    for (int tap = 0; tap < a.taps; ++tap) {
      const int source = source_coordinate(a, p.by_stride[i], true, image, tap);
      if (source >= 0) visit(source, tap);
    }
  }
}

template <class T>
FC_KERNEL(depthwise_threads, 1)
void depthwise_images(const FC_GRID_CONSTANT DepthwiseImagesParams p) {
  using A = accumulator_t<T>;
  const GatherParams& g = p.gather;
  const int64_t index = int64_t(blockIdx.x) * depthwise_threads + int(threadIdx.x);
  const int fast = p.channels_last ? g.groups : p.elements, slow = p.channels_last ? p.elements : g.groups;
  const int64_t rest = index / fast, sample = rest / slow;
  if (sample >= g.batch) return;
  const int first = int(index - rest * fast), second = int(rest - sample * slow);
  const int channel = p.channels_last ? first : second;
  int at[3];
  find_in_rim(p, p.channels_last ? second : first, at);
  const Strides &from = g.source_strides, &to = g.out_strides;
  const T* source = static_cast<const T*>(g.source) + sample * from.batch + channel * from.group;
  const T* filter = static_cast<const T*>(g.filter) + channel * g.filter_group;
  A sum = 0;
  for (int k = 0; k < g.channels; ++k, source += from.channel, filter += g.filter_channel)
    visit_images(p, 0, at[0], [&](int d, int t) {
      visit_images(p, 1, at[1], [&](int h, int r) {
        const T* row = source + d * from.axis[0] + h * from.axis[1];
        const T* taps = filter + (int64_t(t) * g.axis[1].taps + r) * g.axis[2].taps;
        visit_images(p, 2, at[2], [&](int w, int s) {
          const A weight = p.folds ? A(1) : A(widen(load(taps + s)));
          sum = fma(A(widen(load(row + w * from.axis[2]))), weight, sum);
        });
      });
    });
  int64_t o = sample * to.batch + channel * to.group;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) o += at[i] * to.axis[i];
  store(static_cast<T*>(g.out) + o, Epilogue<T>(g, 0).finish(Vec<A, 1>{{sum}}, true, channel, 1, o)[0]);
}

}  // namespace fastconv::kernels
