#include "cpu/max_gradient.h"

#include <algorithm>

#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

// NHWC, vectors of channels: winners are compared with so many taps of a pixel, where they lie, instead.
constexpr int64_t kComparedTaps = 12;
constexpr int64_t kTileBytes = 256 << 10;    // of gx in a scatter's tile, at best: half of L2
constexpr int64_t kMostTileBytes = 2 << 20;  // at most

int64_t plane_bytes(const PoolProblem& p) { return volume(p.in) * accumulator_size(p.dtype); }

// NHWC: so many that their gx stays in L2.
int64_t channels_in_place(const PoolProblem& p) {
  return std::max<int64_t>(1, kTileBytes / plane_bytes(p) / kTileChannels) * kTileChannels;
}

bool is_sparse(const PoolProblem& p) {
  if (p.is_adaptive() || p.x_elements() < 16 * p.y_elements()) return false;
  for (int i = 0; i < 3; ++i)
    if (p.stride[i] < (p.window[i] - 1) * p.dilation[i] + 1 && p.out[i] > 1) return false;
  return true;
}

}  // namespace

bool by_tiles(const PoolProblem& p) {
  if (is_sparse(p)) return true;
  if (p.layout == Layout::nchw || p.c * accumulator_size(p.dtype) < kernels().vector_bytes || p.is_adaptive())
    return true;
  int64_t taps = 1;  // that a pixel may have won by
  for (int i = 0; i < 3; ++i) taps *= (p.window[i] + p.stride[i] - 1) / p.stride[i];
  return taps > kComparedTaps;
}

std::string refuse_max_gradient(const PoolProblem& p) {
  const int64_t channels = p.layout == Layout::nchw ? 1 : std::min(p.c, kTileChannels);
  if (!is_sparse(p) && plane_bytes(p) * channels > kMostTileBytes)
    return concat("planes of gx of ", plane_bytes(p), " bytes: too large to scatter in cache");
  return "";
}

MaxGradientPlan::MaxGradientPlan(const PoolProblem& problem) : windows_(problem, Pass::dgrad) {
  MaxGradient& q = gradient_;
  q.problem = windows_.pooling().problem, q.places = windows_.pooling().places;
  const Pooling& p = q.problem;
  const AxisMap(&axis)[3] = p.forward;
  q.every = true;
  for (const AxisMap& each : axis) {
    for (int64_t o = 0; o < each.out; ++o) {
      bool meets = false;
      for (int64_t t = 0; t < each.taps && !meets; ++t) meets = each.source(o, t) >= 0;
      q.every &= meets;
    }
  }
  for (int64_t d = 0; d < axis[0].out; ++d)
    for (int64_t h = 0; h < axis[1].out; ++h)
      for (int64_t w = 0; w < axis[2].out; ++w)
        origins_.push_back(
            int32_t((axis[0].origin(d) * axis[1].in + axis[1].origin(h)) * axis[2].in + axis[2].origin(w)));
  q.origins = origins_.data();
  const bool nchw = p.layout == Layout::nchw;
  const bool whole = nchw || p.c * size_of(p.dtype) % kernels().vector_bytes == 0;
  q.stream = whole && streams(problem.x_elements() * size_of(p.dtype));
  const bool whole_tiles =
      p.c % kTileChannels == 0 && p.offset_bytes == 1 && axis[0].taps == 1 && volume(problem.in) * p.c <= INT32_MAX;
  q.in_place = (nchw || whole_tiles) && q.every && !q.stream && size_of(p.dtype) == accumulator_size(p.dtype);
  q.sparse = is_sparse(problem);
  q.planes = p.n * p.c;
  q.group = q.sparse ? (nchw ? 1 : p.c)
            : !nchw  ? std::min(p.c, q.in_place ? channels_in_place(problem) : kTileChannels)
            : 2 * plane_bytes(problem) <= kTileBytes ? 2
                                                     : 1;
}

int64_t MaxGradientPlan::tasks() const {
  const MaxGradient& q = gradient_;
  if (q.problem.layout == Layout::nchw) return (q.planes + q.group - 1) / q.group;
  return q.problem.n * ((q.problem.c + q.group - 1) / q.group);
}

}  // namespace fastconv::cpu
