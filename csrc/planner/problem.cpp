#include "fastconv/problem.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace fastconv {
namespace {

std::string show(const Axes& axes, int rank) {
  std::string text;
  for (int axis = 3 - rank; axis < 3; ++axis) text += (text.empty() ? "" : "x") + std::to_string(axes[axis]);
  return text;
}

// Tensors must be addressable: element counts times 8 bytes stay below 2^63.
void require_addressable(const char* tensor, std::initializer_list<int64_t> extents) {
  int64_t elements = 1;
  for (int64_t extent : extents) {
    require(!__builtin_mul_overflow(elements, extent, &elements) && elements <= std::numeric_limits<int64_t>::max() / 8,
            tensor, ": too many elements to address with 64 bits");
  }
}

template <class Enum, size_t Count>
Enum parse_name(const std::string& name, const Enum (&values)[Count], const char* argument) {
  std::string known;
  for (Enum value : values) {
    if (name == name_of(value)) return value;
    known += concat(known.empty() ? "" : ", ", name_of(value));
  }
  throw InvalidArgument(concat(argument, ": expected one of ", known, ", got '", name, "'"));
}

}  // namespace

int64_t output_size(int64_t in, int64_t lo, int64_t hi, int64_t window, int64_t stride, int64_t dilation,
                    bool ceil_mode) {
  const int64_t room = in + lo + hi - dilation * (window - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  int64_t positions = (room >= 0 ? room / stride : -((-room + stride - 1) / stride)) + 1;
  if (ceil_mode && (positions - 1) * stride >= in + lo) --positions;
  return positions;
}

void ConvProblem::validate() {
  require(groups > 0, "groups: expected a positive number, got ", groups);
  require(n >= 0 && c >= 0, "input: negative batch or channel count");
  require(k > 0, "weight: expected at least one output channel, got ", k);
  require(c % groups == 0, "input: ", c, " channels are not divisible by groups=", groups);
  require(k % groups == 0, "weight: ", k, " output channels are not divisible by groups=", groups);
  for (int axis = 3 - rank; axis < 3; ++axis) {
    require(stride[axis] > 0, "stride: expected positive, got ", show(stride, rank));
    require(dilation[axis] > 0, "dilation: expected positive, got ", show(dilation, rank));
    require(pad_lo[axis] >= 0 && pad_hi[axis] >= 0, "padding: negative padding is not supported, got ",
            show(pad_lo, rank), " low and ", show(pad_hi, rank), " high");
    require(filter[axis] > 0, "weight: expected a positive kernel size, got ", show(filter, rank));
    require(in[axis] >= 0, "input: negative spatial size ", show(in, rank));
    require(in[axis] > 0 || n == 0 || c == 0,
            "input: a spatial size of 0 is supported only with zero batch or channels, got ", show(in, rank));
    int64_t reach;
    require(!__builtin_mul_overflow(dilation[axis], filter[axis] - 1, &reach) && reach < (int64_t(1) << 62),
            "dilation: too large, got ", show(dilation, rank));
    require(in[axis] < (int64_t(1) << 60) && pad_lo[axis] < (int64_t(1) << 60) && pad_hi[axis] < (int64_t(1) << 60),
            "padding: padded input too large to address");
    const int64_t most = std::max(pad_lo[axis], pad_hi[axis]);
    require(pad_mode != PadMode::reflect || most < in[axis] || most == 0, "padding: to reflect ", most,
            " elements takes more than the input's ", in[axis]);
    require(pad_mode != PadMode::circular || most <= in[axis], "padding: cannot wrap around more than once, got ", most,
            " for an input of ", in[axis]);
    require(pad_mode == PadMode::zeros || in[axis] > 0, "input: an empty one has nothing to pad with");
    out[axis] = output_size(in[axis], pad_lo[axis], pad_hi[axis], filter[axis], stride[axis], dilation[axis]);
    require(out[axis] > 0, "weight: kernel size ", show(filter, rank), " with dilation ", show(dilation, rank),
            " is greater than the padded input ", in[axis] + pad_lo[axis] + pad_hi[axis], " on spatial axis ",
            axis - (3 - rank));
  }
  if (pad_lo == Axes{0, 0, 0} && pad_hi == pad_lo) pad_mode = PadMode::zeros;  // there is none
  require_addressable("input", {n, c, in[0], in[1], in[2]});
  require_addressable("weight", {k, c / groups, filter[0], filter[1], filter[2]});
  require_addressable("output", {n, k, out[0], out[1], out[2]});
}

double ConvProblem::flops(Pass pass) const {
  if (pass == Pass::bgrad) return double(y_elements());
  return 2.0 * double(y_elements()) * double(c_per_group()) * double(volume(filter));
}

ConvProblem ConvProblem::padded() const {
  ConvProblem p = *this;
  for (int i = 0; i < 3; ++i) p.in[i] += pad_lo[i] + pad_hi[i], p.pad_lo[i] = p.pad_hi[i] = 0;
  p.pad_mode = PadMode::zeros;
  return p;
}

double ConvProblem::bytes(Pass pass) const {
  if (pass == Pass::bgrad) return double((y_elements() + k) * size_of(dtype));
  return double((x_elements() + w_elements() + y_elements()) * size_of(dtype));
}

std::string ConvProblem::describe() const {
  return concat("conv", rank, "d ", name_of(dtype), " ", name_of(layout), " N", n, " C", c, " K", k, " in ",
                show(in, rank), " filter ", show(filter, rank), " stride ", show(stride, rank), " pad ",
                show(pad_lo, rank), pad_hi == pad_lo ? "" : "+" + show(pad_hi, rank),
                pad_mode == PadMode::zeros ? "" : concat(" ", name_of(pad_mode)), " dilation ", show(dilation, rank),
                " groups ", groups, " -> out ", show(out, rank));
}

void SeparableProblem::validate() const {
  require(k >= 0, "pointwise_weight: negative number of output channels");
  require(depthwise.groups == depthwise.c, "depthwise_weight: expected a group for each of ", depthwise.c,
          " channels, got ", depthwise.groups);
  pointwise();
}

ConvProblem SeparableProblem::pointwise() const {
  ConvProblem p;
  p.rank = depthwise.rank, p.dtype = depthwise.dtype, p.layout = depthwise.layout;
  p.n = depthwise.n, p.c = depthwise.k, p.k = k, p.in = depthwise.out;
  p.validate();
  return p;
}

double SeparableProblem::flops(Pass pass) const { return depthwise.flops(pass) + pointwise().flops(pass); }

double SeparableProblem::bytes(Pass pass) const {
  return depthwise.bytes(pass) + pointwise().bytes(pass) - 2 * double(between_bytes());
}

std::string SeparableProblem::describe() const {
  const std::string act = activation == Activation::none ? "" : concat(" ", name_of(activation));
  return concat("depthwise ", depthwise.describe(), bias ? " bias" : "", act, ", then pointwise K", k);
}

void PoolProblem::adapt_to(const Axes& size) {
  for (int axis = 3 - rank; axis < 3; ++axis) {
    require(in[axis] > 0 && in[axis] < (int64_t(1) << 60), "input: expected non-empty spatial size, got ",
            show(in, rank));
    require(size[axis] > 0 && size[axis] < (int64_t(1) << 60), "output_size: expected positive, got ",
            show(size, rank));
    const int64_t common = std::gcd(in[axis], size[axis]);
    stride[axis] = in[axis] / common, per[axis] = size[axis] / common;
    // A window that starts `rest` / per beyond an element, rest < per, has ceil((stride + rest) / per) elements.
    window[axis] = (stride[axis] + 2 * (per[axis] - 1)) / per[axis];
    out[axis] = size[axis];
  }
}

void PoolProblem::validate() {
  require(n >= 0, "input: negative batch");
  require(c > 0 || n == 0, "input: expected at least one channel, got ", c);
  const bool is_max = kind == PoolKind::max;
  for (int axis = 3 - rank; axis < 3; ++axis) {
    require(window[axis] > 0, "kernel_size: expected positive, got ", show(window, rank));
    require(stride[axis] > 0, "stride: expected positive, got ", show(stride, rank));
    require(dilation[axis] > 0, "dilation: expected positive, got ", show(dilation, rank));
    require(is_max || dilation[axis] == 1, "dilation: average pooling has none, got ", show(dilation, rank));
    require(pad[axis] >= 0, "padding: expected non-negative, got ", show(pad, rank));
    require(in[axis] > 0, "input: expected non-empty spatial size, got ", show(in, rank));
    int64_t reach;
    require(!__builtin_mul_overflow(dilation[axis], window[axis] - 1, &reach) && reach < (int64_t(1) << 60) &&
                stride[axis] < (int64_t(1) << 60) && in[axis] < (int64_t(1) << 60),
            "kernel_size: window too large, got ", show(window, rank));
    require(pad[axis] <= window[axis] / 2, "padding: expected at most half of kernel_size, got padding ",
            show(pad, rank), " and kernel_size ", show(window, rank));
    // torch demands this of avg_pool3d alone; there padding and ceil_mode do not count.
    require(is_max || rank < 3 || in[axis] >= window[axis], "input: spatial size ", show(in, rank),
            " is smaller than kernel_size ", show(window, rank));
    if (per[axis] > 1) continue;  // adaptive: the size was given
    out[axis] = output_size(in[axis], pad[axis], pad[axis], window[axis], stride[axis], dilation[axis], ceil_mode);
    require(out[axis] > 0, "input: spatial size ", show(in, rank), " is too small for kernel_size ", show(window, rank),
            ": the output would be empty");
  }
  require_addressable("input", {n, c, in[0], in[1], in[2]});
  require_addressable("output", {n, c, out[0], out[1], out[2]});
}

double PoolProblem::flops(Pass) const { return double(y_elements()) * double(volume(window)); }

double PoolProblem::bytes(Pass pass) const {
  const double tensors = double((x_elements() + y_elements()) * size_of(dtype));
  if (pass == Pass::unpool || pass == Pass::pick) return tensors + double(y_elements()) * 8;
  const bool reads_offsets = kind == PoolKind::max && pass != Pass::fprop;
  return tensors + (reads_offsets ? double(y_elements() * offset_bytes()) : 0.0);
}

std::string PoolProblem::describe() const {
  const std::string what = concat(is_adaptive() ? "adaptive_" : "", name_of(kind), "_pool", rank, "d ", name_of(dtype),
                                  " ", name_of(layout), " N", n, " C", c, " in ", show(in, rank));
  if (is_adaptive()) return concat(what, " -> out ", show(out, rank));
  return concat(what, " window ", show(window, rank), " stride ", show(stride, rank), " pad ", show(pad, rank),
                " dilation ", show(dilation, rank), ceil_mode ? " ceil_mode" : "", " -> out ", show(out, rank));
}

const char* name_of(Layout layout) { return layout == Layout::nchw ? "nchw" : "nhwc"; }

const char* name_of(Pass pass) {
  constexpr const char* names[] = {"fprop", "dgrad", "wgrad", "bgrad", "gather", "unpool", "pick"};
  return names[int(pass)];
}

const char* name_of(PoolKind kind) { return kind == PoolKind::max ? "max" : "average"; }

const char* name_of(PadMode mode) {
  constexpr const char* names[] = {"zeros", "reflect", "replicate", "circular"};
  return names[int(mode)];
}

const char* name_of(Math math) {
  constexpr const char* names[] = {"ieee", "tf32", "tf32x3"};
  return names[int(math)];
}

const char* name_of(Activation activation) {
  constexpr const char* names[] = {"none", "relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh"};
  return names[int(activation)];
}

Layout parse_layout(const std::string& name) { return parse_name(name, {Layout::nchw, Layout::nhwc}, "layout"); }

Pass parse_pass(const std::string& name) {
  using enum Pass;
  return parse_name(name, {fprop, dgrad, wgrad, bgrad, gather, unpool, pick}, "pass");
}

PoolKind parse_pool_kind(const std::string& name) {
  return parse_name(name, {PoolKind::max, PoolKind::average}, "kind");
}

PadMode parse_pad_mode(const std::string& name) {
  return parse_name(name, {PadMode::zeros, PadMode::reflect, PadMode::replicate, PadMode::circular}, "padding_mode");
}

Math parse_math(const std::string& name) { return parse_name(name, {Math::ieee, Math::tf32, Math::tf32x3}, "math"); }

Activation parse_activation(const std::string& name) {
  using enum Activation;
  return parse_name(name, {none, relu, relu6, leaky_relu, hardswish, silu, gelu, gelu_tanh}, "activation");
}

Axes spread(const std::vector<int64_t>& values, int rank, int64_t absent, const char* argument) {
  require(int(values.size()) == rank, argument, ": expected ", rank, " values, one a spatial dimension, got ",
          values.size());
  Axes axes{absent, absent, absent};
  for (int i = 0; i < rank; ++i) axes[3 - rank + i] = values[i];
  return axes;
}

}  // namespace fastconv
