// What is asked: the shape of a convolution or a pooling, in the field's letters (N C H W K R S P Q).
// Rank-generic: arrays over the three spatial axes (depth, height, width); axes that a problem lacks have extent 1,
// stride 1, padding 0, dilation 1, so that kernels see one rank. All sizes are 64-bit.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fastconv/activation.h"
#include "fastconv/dtype.h"

namespace fastconv {

enum class Layout : uint8_t { nchw, nhwc };  // channels first or last, whatever the rank

// conv: fprop(x, w) -> y, dgrad(gy, w) -> gx, wgrad(x, gy) -> gw, bgrad(gy) -> gb.
// pool: fprop(x) -> y, dgrad(gy) -> gx, and for max-pool gather(ggx) -> ggy, the derivative of its dgrad.
// unpooling (of a max-pool problem only n, c, in and out count): unpool(y, indices) -> x with each y at its index in
// the plane, 0 elsewhere, and pick(gx, indices) -> gy, its derivative.
enum class Pass : uint8_t { fprop, dgrad, wgrad, bgrad, gather, unpool, pick };

enum class PoolKind : uint8_t { max, average };

// What a convolution's padding holds: zeros, or the input itself, mirrored about its border elements, its border
// elements, or its other end. Names and meaning are torch.nn.Conv2d's.
enum class PadMode : uint8_t { zeros, reflect, replicate, circular };

using Axes = std::array<int64_t, 3>;  // depth, height, width

// THE output-size formula: how many positions a window of `window` taps, `dilation` apart, takes when it moves by
// `stride` over `in` elements with `lo` and `hi` padded ones around. Not positive where it does not fit. With
// `ceil_mode` a last window may hang over the high end, but only if it starts within the input or the low padding
// (torch's pooling_output_shape, aten/src/ATen/native/Pool.h).
int64_t output_size(int64_t in, int64_t lo, int64_t hi, int64_t window, int64_t stride, int64_t dilation,
                    bool ceil_mode = false);

inline int64_t volume(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

struct ConvProblem {
  int rank = 2;  // spatial dimensions, 1 to 3; only for messages: the arrays always hold three
  DType dtype = DType::f32;
  Layout layout = Layout::nchw;  // of x, y and w alike: w is [K, C/groups, R, S] or [K, R, S, C/groups]
  int64_t n = 0, c = 0, k = 0, groups = 1;
  Axes in{1, 1, 1}, filter{1, 1, 1}, stride{1, 1, 1}, pad_lo{0, 0, 0}, pad_hi{0, 0, 0}, dilation{1, 1, 1};
  PadMode pad_mode = PadMode::zeros;
  Axes out{1, 1, 1};  // set by validate()

  // Throws InvalidArgument where torch.nn.functional.conv{1,2,3}d raises; else fills in `out`.
  void validate();

  int64_t c_per_group() const { return c / groups; }
  int64_t k_per_group() const { return k / groups; }
  int64_t x_elements() const { return n * c * volume(in); }
  int64_t w_elements() const { return k * c_per_group() * volume(filter); }
  int64_t y_elements() const { return n * k * volume(out); }
  // The same convolution of an input whose padding has been written out.
  ConvProblem padded() const;
  // Multiply-adds counted twice; the same for fprop, dgrad and wgrad (taps on padding counted as if real).
  double flops(Pass pass) const;
  // Compulsory traffic: each operand read once and the result written once.
  double bytes(Pass pass) const;
  std::string describe() const;
};

// y = pointwise(z), z = activation(depthwise(x) + bias): a convolution with a filter for each channel, whose channels
// one of 1 x 1 mixes to K. The epilogue of y is PlanOptions'.
struct SeparableProblem {
  ConvProblem depthwise;  // x -> z
  int64_t k = 0;          // output channels
  bool bias = false;      // z's epilogue
  Activation activation = Activation::none;
  double slope = 0.01;

  // Throws InvalidArgument unless `depthwise`, validated, is a depthwise convolution.
  void validate() const;

  ConvProblem pointwise() const;  // z -> y
  double flops(Pass pass) const;
  // x, the filters and y; not z, of which a kernel may spare memory `between_bytes`, written and read.
  double bytes(Pass pass) const;
  int64_t between_bytes() const { return depthwise.y_elements() * size_of(depthwise.dtype); }
  std::string describe() const;
};

struct PoolProblem {
  int rank = 2;
  PoolKind kind = PoolKind::max;
  DType dtype = DType::f32;
  Layout layout = Layout::nchw;
  int64_t n = 0, c = 0;
  Axes in{1, 1, 1}, window{1, 1, 1}, stride{1, 1, 1}, pad{0, 0, 0}, dilation{1, 1, 1};
  // Adaptive pooling's windows move by in / out elements, a fraction stride / per in lowest terms: window o covers
  // [floor(o * stride / per), ceil((o + 1) * stride / per)). Where in is a multiple of out, per is 1 and the problem is
  // an ordinary one; elsewhere `window` is the widest window.
  Axes per{1, 1, 1};
  bool ceil_mode = false;
  bool count_include_pad = true;  // average only
  int64_t divisor_override = 0;   // average only; 0: none
  Axes out{1, 1, 1};              // set by validate()

  // Makes it adaptive pooling to `size`: sets window, stride and per. validate() follows.
  void adapt_to(const Axes& size);
  // Throws InvalidArgument where torch.nn.functional.{max,avg}_pool{1,2,3}d raises; else fills in `out`.
  void validate();

  bool is_adaptive() const { return volume(per) > 1; }  // truly so, on some axis
  int64_t x_elements() const { return n * c * volume(in); }
  int64_t y_elements() const { return n * c * volume(out); }
  // Max-pool remembers which tap of the window won: its index in the window, row-major over (t, r, s). One byte while
  // the window has at most 255 taps (255 itself means that no tap lay inside the input), else four (then -1 does).
  int64_t offset_bytes() const { return volume(window) <= 255 ? 1 : 4; }
  double flops(Pass pass) const;
  double bytes(Pass pass) const;
  std::string describe() const;
};

const char* name_of(Layout layout);
const char* name_of(Pass pass);
const char* name_of(PoolKind kind);
const char* name_of(PadMode mode);
const char* name_of(Math math);
const char* name_of(Activation activation);
Layout parse_layout(const std::string& name);
Pass parse_pass(const std::string& name);
PoolKind parse_pool_kind(const std::string& name);
PadMode parse_pad_mode(const std::string& name);
Math parse_math(const std::string& name);
Activation parse_activation(const std::string& name);

// `values` for the rank's spatial axes -> three axes, the leading ones filled with `absent`. Throws naming `argument`
// unless there are `rank` of them.
Axes spread(const std::vector<int64_t>& values, int rank, int64_t absent, const char* argument);

}  // namespace fastconv
