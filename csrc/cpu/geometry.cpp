#include "cpu/geometry.h"

#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

void weight_strides(const ConvProblem& p, int64_t& k, int64_t& c, int64_t (&tap)[3]) {
  const int64_t taps = volume(p.filter), row = p.filter[2], plane = p.filter[1] * row, cg = p.c_per_group();
  k = cg * taps;
  const bool nchw = p.layout == Layout::nchw;
  c = nchw ? taps : 1;
  const int64_t each = nchw ? 1 : cg;
  tap[0] = plane * each, tap[1] = row * each, tap[2] = each;
}

}  // namespace

Correlation correlation(const ConvProblem& p, Pass pass) {
  Correlation task{};
  task.dtype = p.dtype, task.layout = p.layout;
  task.n = p.n, task.groups = p.groups;
  int64_t w_k, w_c;
  weight_strides(p, w_k, w_c, task.w_tap);
  task.w_group = p.k_per_group() * w_k;
  const bool forward = pass == Pass::fprop;
  for (int i = 0; i < 3; ++i) {
    const AxisMap axis = window_axis(p.in[i], p.out[i], p.filter[i], p.stride[i], p.pad_lo[i], p.dilation[i]);
    task.axis[i] = forward ? axis : transpose(axis);
    if (forward) task.axis[i].pad_mode = p.pad_mode;
  }
  const Strides x = dense_strides(p.layout, p.c, p.in), y = dense_strides(p.layout, p.k, p.out);
  task.src_strides = forward ? x : y, task.dst_strides = forward ? y : x;
  task.src_channels = forward ? p.c_per_group() : p.k_per_group();
  task.dst_channels = forward ? p.k_per_group() : p.c_per_group();
  task.w_src = forward ? w_c : w_k, task.w_dst = forward ? w_k : w_c;
  return task;
}

WeightGradient weight_gradient(const ConvProblem& p) {
  WeightGradient task{};
  task.dtype = p.dtype, task.layout = p.layout;
  task.n = p.n, task.groups = p.groups, task.c = p.c_per_group(), task.k = p.k_per_group();
  for (int i = 0; i < 3; ++i) {
    task.axis[i] = window_axis(p.in[i], p.out[i], p.filter[i], p.stride[i], p.pad_lo[i], p.dilation[i]);
    task.axis[i].pad_mode = p.pad_mode;
  }
  task.x_strides = dense_strides(p.layout, p.c, p.in), task.gy_strides = dense_strides(p.layout, p.k, p.out);
  weight_strides(p, task.w_k, task.w_c, task.w_tap);
  task.w_group = task.k * task.w_k;
  return task;
}

Pooling pooling(const PoolProblem& p, Pass pass) {
  Pooling task{};
  task.dtype = p.dtype, task.layout = p.layout, task.n = p.n, task.c = p.c;
  task.backward = pass == Pass::dgrad || pass == Pass::unpool;
  const Strides x = dense_strides(p.layout, p.c, p.in), y = dense_strides(p.layout, p.c, p.out);
  for (int i = 0; i < 3; ++i) {
    task.forward[i] = window_axis(p.in[i], p.out[i], p.window[i], p.stride[i], p.pad[i], p.dilation[i]);
    if (p.per[i] > 1) task.forward[i].div = p.per[i], task.forward[i].adaptive = true;
    task.axis[i] = task.backward ? transpose(task.forward[i]) : task.forward[i];
  }
  task.src_strides = task.backward ? y : x, task.dst_strides = task.backward ? x : y;
  task.offset_bytes = p.offset_bytes();
  task.count_include_pad = p.count_include_pad, task.divisor_override = p.divisor_override;
  return task;
}

}  // namespace fastconv::cpu
