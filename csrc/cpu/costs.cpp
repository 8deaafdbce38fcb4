#include "cpu/costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/band.h"
#include "cpu/max_gradient.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/windows.h"

namespace fastconv::cpu {
namespace {

bool sixteen_bit(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

// How much slower than float32: ours computes 16-bit types in float (conversions only), float64 with half the lanes;
// PyTorch has neither in oneDNN on machines without native support, and loops over the groups.
double dtype_factor(DType dtype, Maker maker, bool depthwise) {
  if (dtype == DType::f32) return 1;
  if (maker != Maker::aten) return sixteen_bit(dtype) ? 1.5 : 2;
  if (depthwise) return dtype == DType::f64 ? 8 : 12;
  return sixteen_bit(dtype) ? 8 : 2;
}

// Lanes that carry nothing, in blocks of kBlock channels.
double filled(int64_t channels) { return double((channels + kBlock - 1) / kBlock * kBlock) / double(channels); }

// The direct kernel pays per row of outputs and tap, whatever the row's length.
Rate direct_conv_rate(const ConvProblem& p, Pass pass) {
  if (pass == Pass::bgrad) return {1, 0.06, 0};
  if (pass == Pass::dgrad && p.stride[2] > 1) return {0.5, 0, 0.7};  // most taps of a row of gx miss
  const bool scattered = p.layout == Layout::nhwc && p.c > 1;
  const double each = scattered ? 0.25 : p.stride[2] > 1 ? 0.22 : 0.05, row = pass == Pass::wgrad ? 15 : 12;
  return {0.5, 0, each + row / double(p.out[2])};
}

// Of an axis' taps at a stride of one, those that lie inside the source, when `tile` outputs go together.
double taps_inside(const ConvProblem& p, int axis, int64_t tile) {
  if (p.stride[axis] != 1 || p.dilation[axis] != 1) return 1;
  const int64_t in = p.in[axis], out = p.out[axis], taps = p.filter[axis], pad = p.pad_lo[axis];
  double inside = 0;
  for (int64_t t = 0; t < taps; ++t)
    inside += double(std::max<int64_t>(0, std::min(out, in + pad - t) - std::max<int64_t>(0, pad - t)));
  return std::min(1.0, (inside / double(out) + double(tile - 1)) / double(taps));
}

// Sets of L1, of 64, that the pixels of NHWC fall into.
int64_t pixel_sets(const ConvProblem& p) { return 4096 / std::gcd(p.k * size_of(p.dtype), int64_t(4096)); }

// NHWC tensors that come from beyond L2.
bool is_far(const ConvProblem& p) { return p.x_elements() + p.y_elements() > 1200000; }

// NCHW also pays for each plane, most where planes are small; NHWC has scalar code for fewer channels than a vector has
// lanes and for several filters a channel.
Rate depthwise_rate(const ConvProblem& p, Pass pass) {
  const bool strided = p.stride[2] > 1;
  if (p.layout == Layout::nhwc) {
    if (p.k < 8 || p.k_per_group() > 1) return {3, 0.3, 1};
    const double inside = taps_inside(p, 1, 1) * taps_inside(p, 2, 4);
    if (p.dilation[2] > 1 || p.filter[2] > 7)  // taps share no loads
      return {3, 0.15, (pass == Pass::wgrad ? 0.1 : 0.06) * inside};
    // A tile's pixels, eight outputs wide, share the eight ways of their sets.
    const double collide = !strided && (7 + p.filter[2]) * p.filter[1] > 8 * pixel_sets(p) ? 0.3 : 0;
    const double far = is_far(p);
    if (pass == Pass::fprop)
      return strided ? Rate{3, 0.085 + 0.04 * far, 0.045} : Rate{3, 0.12 + 0.06 * far + collide, 0.042 * inside};
    if (pass == Pass::dgrad)
      return strided ? Rate{3, 0.15 + 0.12 * far, 0.036} : Rate{3, 0.1 + 0.07 * far + collide, 0.044 * inside};
    if (strided) return {3, 0.11 + 0.19 * far, 0.048};
    return {3, 0.095 + 0.04 * far + collide, (p.filter[2] == 5 ? 0.055 : 0.042) * inside};
  }
  const double planes = double(p.n * p.k) / double(p.x_elements() + p.y_elements());
  if (by_rows(p)) return {3, 0.13 + 70 * planes, 0.02};
  const bool large = p.filter[2] >= 7;  // three filter rows share what they load
  if (pass == Pass::fprop)
    return strided ? Rate{3, 0.21 + 148 * planes, 0.073} : Rate{3, 0.3 + 84 * planes, large ? 0.028 : 0.035};
  if (pass == Pass::dgrad)
    return strided ? Rate{3, 0.52 + 168 * planes, 0.078} : Rate{3, 0.28 + 117 * planes, large ? 0.028 : 0.038};
  return strided ? Rate{3, 0.35 + 150 * planes, 0.106} : Rate{3, 0.22 + 60 * planes, large ? 0.042 : 0.055};
}

// What is copied: both tensors, transposed in NCHW, and the padding. In NHWC a block is a cache line or two of each
// pixel, which costs more where the tensors come from beyond the caches.
Rate interleaved_rate(const ConvProblem& p, Pass pass) {
  if (p.c_per_group() > 1) {
    const bool nchw = p.layout == Layout::nchw, strided = p.stride[1] * p.stride[2] > 1, four = p.c_per_group() == 4;
    const double element = nchw ? 0.15 : 0.25;
    if (pass == Pass::wgrad) return {3, element, nchw ? four ? 0.042 : 0.032 : strided ? 0.062 : four ? 0.058 : 0.038};
    return {3, element, four ? 0.037 : strided ? 0.043 : 0.03};
  }
  const double elements = double(p.x_elements() + p.y_elements());
  const double rows = double(p.in[1] + p.pad_lo[1] + p.pad_hi[1]), row = double(p.in[2] + p.pad_lo[2] + p.pad_hi[2]);
  const double padded = double(p.n * p.c) * rows * row / elements;
  // wgrad reads its band again for every few taps: a wide one from L2.
  const double again = pass == Pass::wgrad && volume(p.filter) > 128 ? 0.0002 * double(p.out[2]) : 0;
  const double plane = p.layout == Layout::nchw ? 25 * double(p.n * p.c) / elements : 0;
  // What is left of a row of taps is shorter: a tenth of them must go before it shows.
  const double inside = std::min(1.0, 1.1 * taps_inside(p, 1, 1) * taps_inside(p, 2, 7));
  if (p.layout == Layout::nchw) return {3, 0.18 + 0.05 * padded + plane, (0.033 + again) * inside * filled(p.c)};
  const double far = is_far(p) ? pixel_sets(p) == 1 ? 2 : 1 : 0;
  if (pass == Pass::wgrad) return {3, 0.12 + 0.05 * padded + 0.3 * far, (0.036 + again) * inside * filled(p.c)};
  return {3, 0.18 + 0.05 * padded + 0.16 * far, 0.031 * inside * filled(p.c)};
}

// Lanes are output channels, sixteen at a time, or eight; packing takes half a nanosecond a weight, counted per tap of
// an output here.
Rate blocked_rate(const ConvProblem& p, Pass pass) {
  const int64_t lanes = pass == Pass::dgrad ? p.c_per_group() : p.k_per_group();
  const double packing = 0.5 * filled(lanes) / double(p.n * volume(p.out));
  if (pass == Pass::wgrad && p.groups == 1 && lanes > 8) return {4, 0.3, 0.04 * filled(lanes) + packing};
  const bool apart = pass == Pass::dgrad && p.stride[2] > 1;  // short phases of a row
  if (lanes > 8) return {4, 0.3, 0.032 * filled(lanes) + packing};
  if (lanes <= 4) return {4, 0.3, 0.5 / double(lanes) + packing};
  const double eight = pass == Pass::wgrad ? 0.28 : apart && p.groups > 1 ? 0.75 : 0.36;
  return {4, 0.3, eight / double(lanes) + packing};
}

// Groups of eight channels or more: oneDNN's layouts fit some passes better than others.
Rate aten_grouped_rate(const ConvProblem& p, Pass pass) {
  const bool nchw = p.layout == Layout::nchw, strided = p.stride[1] * p.stride[2] > 1, eight = p.c_per_group() < 16;
  const bool wide = p.c_per_group() >= 32 && (nchw || !strided);
  if (pass == Pass::fprop) return {8, 0.3, nchw && eight ? 0.05 : wide ? 0.03 : 0.036};
  if (pass == Pass::dgrad) {
    if (strided) return {18, 0.3, !nchw ? 0.065 : eight ? 0.045 : 0.12};
    return {18, 0.3, !nchw ? 0.04 : wide ? 0.028 : 0.036};
  }
  return {18, 0.3, nchw ? 0.038 : eight && !strided ? 0.04 : 0.08};
}

Rate aten_conv_rate(const ConvProblem& p, Pass pass, bool depthwise) {
  const bool nchw = p.layout == Layout::nchw;
  if (pass == Pass::bgrad) return {5, 0.055, 0};
  if (!depthwise) {
    // oneDNN blocks channels by eight; with fewer it falls back, far in the backward passes and with groups. Its one
    // call for both gradients takes what a call for each takes together (within the noise of 30 layers), so that each
    // gradient is priced, and chosen, by itself.
    const double c = double(std::min<int64_t>(8, p.c_per_group())), k = double(std::min<int64_t>(8, p.k_per_group()));
    const bool few = c < 8 || k < 8, strided = p.stride[1] * p.stride[2] > 1;
    if (p.groups > 1 && !few) return aten_grouped_rate(p, pass);
    const double grouped = p.groups > 1 && c < 8 ? nchw ? 2 : pass == Pass::fprop ? 1.2 : 1 : 1;
    if (pass == Pass::fprop) return {8, k < 8 ? 1.7 : 0.3, 0.028 * grouped * 8 / k};
    if (pass == Pass::wgrad && p.c == 1) return {18, 0, nchw ? 0.3 : 0.048};
    const double tap = 0.028 * grouped * 64 / (c * k);
    if (pass == Pass::wgrad && p.groups == 1 && c <= 4 && k == 8) return {18, 0.3, nchw ? 0.04 : 0.05};  // first layers
    // Few channels, not a first layer's: after dgrad, in the one call for both, wgrad is nearly free.
    if (pass == Pass::wgrad && p.groups == 1 && few && p.c > 4) return {18, 0.5, 0.7 * tap};
    if (pass == Pass::wgrad) return {18, few ? 2.8 : 0.6, tap};
    if (few && p.c == 1 && !nchw) return {18, 1.3, 1.9 * tap};
    if (few) return {18, p.groups == 1 ? 1.3 : nchw ? 2.8 : 0.6, tap};
    return {18, !nchw ? 0.75 : strided ? 2.5 : 0.6, 0.0215};
  }
  const bool strided = p.stride[2] > 1;
  // oneDNN has nothing for taps far apart, and PyTorch loops over the channels.
  if (p.dilation[2] > 2 || (p.dilation[2] == 2 && pass != Pass::fprop)) return {60, 0.3, nchw ? 0.5 : 2};
  const double plane = 50 * double(p.n * p.k) / double(p.x_elements() + p.y_elements());
  if (pass == Pass::fprop && nchw) return strided ? Rate{50, 0.28, 0.052} : Rate{50, 0.33 + plane, 0.04};
  if (pass == Pass::fprop) return {40, strided ? 0.09 : 0.11, 0.063};
  if (pass == Pass::dgrad && nchw) return strided ? Rate{60, 0.55, 0.11} : Rate{60, 0.4, 0.071};
  if (pass == Pass::dgrad) return strided ? Rate{50, 0.28, 0.1} : Rate{50, 0.16, 0.064};
  // oneDNN has a kernel for 3x3, or none.
  if (p.filter[1] <= 3 && p.filter[2] <= 3) return nchw ? Rate{60, 0.6, 0.01} : Rate{50, 0.35, 0.04};
  return nchw ? Rate{60, 0.3, 1.25} : Rate{50, 0.1, 0.45};
}

// Of PyTorch's result and, in NCHW, oneDNN's copies of both its tensors: what glibc maps anew at every call, since it
// keeps no block above 32 MiB and gives the top of its heap back above 64 (mallopt(3): the dynamic M_MMAP_THRESHOLD and
// M_TRIM_THRESHOLD). Each page is a fault: 3.3 us measured on a virtual machine, a third of that counted. Our results
// are kept (cpu/results.h).
double aten_faults_us(const ConvProblem& p, Pass pass) {
  const double x = double(p.x_elements() * size_of(p.dtype)), y = double(p.y_elements() * size_of(p.dtype));
  const double result = pass == Pass::fprop ? y : pass == Pass::dgrad ? x : 0;
  const bool copies = p.layout == Layout::nchw && pass != Pass::bgrad;
  const double blocks[] = {result, copies ? x : 0, copies ? y : 0};
  double all = 0, large = 0;
  for (double block : blocks) all += block, large += block > (32 << 20) ? block : 0;
  return (all > (64 << 20) ? all : large) / 4096;
}

Cost total(const Rate& rate, double elements, double taps, double factor, double flops, double bytes,
           const PlanOptions& options) {
  const double work = factor * (rate.element_ns * elements + rate.tap_ns * taps) / 1000;
  const int threads = usable_threads(options.threads, work > kSerialMicroseconds);
  return {rate.call_us + work / threads, flops, bytes};
}

// Vectors along the rows: per element, per tap, and per row of a plane (long before its length matters).
Rate pool_rows_rate(const PoolProblem& p, Pass pass) {
  const bool maximum = p.kind == PoolKind::max, forward = pass == Pass::fprop;
  const double rows = double((p.layout == Layout::nchw ? p.n * p.c : p.n) * (p.in[0] * p.in[1] + p.out[0] * p.out[1]));
  const double each = rows * 4 * double(std::min<int64_t>(4, p.stride[2])) / double(p.x_elements() + p.y_elements());
  if (maximum) return {1.7, 0.15 + each, 0.13};
  return forward ? Rate{1.7, 0.2 + each, 0.06} : Rate{1.7, 0.3 + each, 0.06};
}

// Whole planes (cpu/windows.h): per element and per plane; narrow rows fill no vector.
Rate pool_planes_rate(const PoolProblem& p, Pass pass) {
  const double elements = double(p.x_elements() + p.y_elements()), rows = double(p.n * p.c * p.in[0] * p.in[1]);
  const double windows = double(p.y_elements()) * 6 / elements;
  if (by_one_run(p)) {
    if (pass != Pass::fprop) return {1.7, 0.25, 0};
    if (p.kind == PoolKind::max) return {1.7, 0.13 + 10 * double(p.n * p.c) / elements, 0};
    return {1.7, 0.085 + 12 * double(p.n * p.c) / elements, 0};
  }
  if (pass == Pass::fprop) return {1.7, 0.1 + windows + 4 * rows / elements, 0};
  return {1.7, 0.2 + windows + (6 * rows + double(p.n * p.c) * 1.5 * double(p.out[1] * p.in[2])) / elements, 0};
}

// Vectors of planes side by side: per element, and per pixel written.
Rate pool_beside_rate(const PoolProblem& p, Pass pass) {
  const double windows = double(p.y_elements()) / double(p.x_elements() + p.y_elements());
  return pass == Pass::fprop ? Rate{1.7, 0.21 + 1.6 * windows, 0.02} : Rate{1.7, 0.3 + 5 * windows, 0};
}

// PyTorch's averages of planes: per window and per element of it, either way.
Rate aten_average_rate(const PoolProblem& p, Pass pass) {
  if (by_one_run(p) && pass != Pass::fprop) return {3, 0.5, 0};
  return {2.5, 0, 0.7 + 7 / double(volume(p.window))};
}

Rate pool_rate(const PoolProblem& p, Pass pass, Maker maker) {
  const bool nchw = p.layout == Layout::nchw, maximum = p.kind == PoolKind::max;
  // Channels too few for a vector: both loops over them are scalar.
  const bool narrow = !nchw && p.c < 8;
  if (narrow && maximum && pass == Pass::fprop && maker != Maker::fast) return {8, 0, 3};
  if (maker == Maker::direct) {
    if (pass >= Pass::gather) return {2, 0.08, 0.05};
    // A scatter: of each output once, whatever the window.
    if (maximum && pass == Pass::dgrad && !sixteen_bit(p.dtype))
      return {2, 0.35 + 1.9 * double(p.y_elements()) / double(p.x_elements() + p.y_elements()), 0};
    if (maximum && pass == Pass::fprop) return {1.6, 0.04, nchw ? 6.6 : 0.235};
    if (pass == Pass::dgrad) return nchw ? Rate{1.8, 13, 5.5} : Rate{2, 0.28, 0.14};
    return nchw ? Rate{1.8, 1, 3.8} : Rate{2, 0.12, 0.1};
  }
  if (maker == Maker::fast) {
    if (by_planes_beside(p, pass)) return pool_beside_rate(p, pass);
    if (by_whole_planes(p) && !(maximum && pass == Pass::dgrad)) return pool_planes_rate(p, pass);
    if (maximum && pass == Pass::dgrad && by_tiles(p) && p.x_elements() >= 16 * p.y_elements())
      return {2.5, 0.12 + 2 * double(p.y_elements()) / double(p.x_elements()), 0};  // nearly all zeros
    if (maximum && pass == Pass::dgrad && by_tiles(p))
      return {2.5, 0.25 + (nchw ? 0.75 : 0.9) * double(p.y_elements()) / double(p.x_elements() + p.y_elements()), 0};
    if (nchw && maximum && p.out[2] == 1) return {1.7, 3.2, 0};  // a lane a plane, or none at all
    if (nchw || narrow) return pool_rows_rate(p, pass);
    if (maximum && pass == Pass::fprop) return {2, 0.13, 0.055};
    if (maximum) return {2, 0.2, 0.075};
    return pass == Pass::fprop ? Rate{2, 0.16, 0.045} : Rate{2, 0.26, 0.04};
  }
  if (nchw && pass == Pass::fprop && volume(p.out) == 1) {  // its sum, and its adaptive maximum
    if (maximum) return {6, 0, 1.4};
    return {3, 0.095 + 4 * double(p.n * p.c) / double(p.x_elements() + p.y_elements()), 0};
  }
  if (maximum && pass == Pass::fprop) return nchw ? Rate{6, 0, 2.9} : Rate{8, 0.12, 0.15};
  if (maximum) return {8, 0.5 + 0.25 * double(p.y_elements()) / double(p.x_elements() + p.y_elements()), 0};
  if (nchw) return aten_average_rate(p, pass);
  return pass == Pass::fprop ? Rate{3, 0.13, 0.1} : Rate{8, 0.28, 0.12};
}

Cost pool_pass_cost(const PoolProblem& p, Pass pass, const PlanOptions& options, Maker maker) {
  double elements = double(p.x_elements() + p.y_elements()), taps = double(p.y_elements() * volume(p.window));
  // Per pixel and tap, whatever the channels: walking the taps.
  if (maker != Maker::fast && p.layout == Layout::nhwc) taps += 10 * taps / double(p.c);
  const double factor = p.dtype == DType::f64 ? 2 : sixteen_bit(p.dtype) && maker == Maker::direct ? 1.5 : 1;
  return total(pool_rate(p, pass, maker), elements, taps, factor, p.flops(pass), p.bytes(pass), options);
}

}  // namespace

Cost conv_cost(const ConvProblem& p, Pass pass, const PlanOptions& options, Maker maker) {
  const bool depthwise = p.c_per_group() == 1 && p.groups > 1;
  const double elements = double(p.x_elements() + p.y_elements()), taps = p.flops(pass) / 2;
  const Rate rate = maker == Maker::aten          ? aten_conv_rate(p, pass, depthwise)
                    : maker == Maker::direct      ? direct_conv_rate(p, pass)
                    : maker == Maker::blocked     ? blocked_rate(p, pass)
                    : maker == Maker::interleaved ? interleaved_rate(p, pass)
                                                  : depthwise_rate(p, pass);
  Cost cost =
      total(rate, elements, taps, dtype_factor(p.dtype, maker, depthwise), p.flops(pass), p.bytes(pass), options);
  if (maker == Maker::aten) cost.microseconds += aten_faults_us(p, pass) / usable_threads(options.threads, true);
  return cost;
}

double elementwise_microseconds(const ConvProblem& p, const PlanOptions& options) {
  const double outputs = double(p.y_elements());
  return total({2, 0.15, 0}, outputs, 0, dtype_factor(p.dtype, Maker::direct, false), outputs, 0, options).microseconds;
}

Cost padding_cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const ConvProblem padded = p.padded();
  const double elements = double(p.x_elements() + padded.x_elements());
  const Rate rate = pass == Pass::dgrad ? Rate{40, 0.5, 0} : Rate{8, 0.5, 0};
  return total(rate, elements, 0, 1, elements, elements * double(size_of(p.dtype)), options);
}

Cost pool_cost(const PoolProblem& p, Pass pass, const PlanOptions& options, Maker maker) {
  Cost cost = pool_pass_cost(p, pass, options, maker);
  if (p.kind != PoolKind::max) return cost;
  // Offsets are asked for because dgrad will follow, and it must be of the same maker: count both.
  if (pass == Pass::fprop && options.offsets) {
    cost.microseconds += maker == Maker::aten
                             ? pool_pass_cost(p, Pass::dgrad, options, maker).microseconds
                             : std::min(pool_pass_cost(p, Pass::dgrad, options, Maker::direct).microseconds,
                                        pool_pass_cost(p, Pass::dgrad, options, Maker::fast).microseconds);
  }
  // From our offsets PyTorch must first make its indices: some ten passes over them.
  if (pass != Pass::fprop && maker == Maker::aten) cost.microseconds += 60 + 0.01 * double(p.y_elements());
  return cost;
}

}  // namespace fastconv::cpu
