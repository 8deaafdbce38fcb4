#include "cpu/windows.h"

#include <algorithm>
#include <numeric>

#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

constexpr int64_t kLineElements = 256;       // planes lie side by side until a line has this many
constexpr int64_t kLinesBudget = 24 << 10;   // bytes of source lines: they stay in L1
constexpr int64_t kBesideBytes = 192 << 10;  // of planes side by side: they stay in L2
constexpr int64_t kTableLimit = 1 << 20;     // outputs of an axis, and outputs times taps / 16

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A window that is alone on its axis may as well be as far from the next as the axis is long: planes side by side then
// give their windows to neighbouring lanes.
AxisMap alone_apart(AxisMap axis) {
  if (axis.div == 1 && axis.out == 1) axis.mul = std::max<int64_t>(1, (axis.taps - 1) * axis.step + 1);
  return axis;
}

}  // namespace

WindowPlan::WindowPlan(const PoolProblem& problem, Pass pass) {
  Pooling& p = pooling_.problem;
  p = cpu::pooling(problem, pass);
  const bool nchw = p.layout == Layout::nchw;
  pooling_.planes = nchw ? p.n * p.c : p.n, pooling_.pixel = nchw ? 1 : p.c;
  for (int axis = 0; axis < 3; ++axis) make_spans(axis);
  const auto most = [](const std::vector<Span>& spans) {
    int64_t count = 1;
    for (const Span& span : spans) count = std::max<int64_t>(count, span.count);
    return count;
  };
  pooling_.tap_rows = most(spans_[0]) * most(spans_[1]);
  const AxisMap(&forward)[3] = p.forward;
  for (int64_t t = 0; t < forward[0].taps; ++t)
    for (int64_t r = 0; r < forward[1].taps; ++r)
      for (int64_t s = 0; s < forward[2].taps; ++s)
        places_.push_back((t * forward[0].step * forward[1].in + r * forward[1].step) * forward[2].in +
                          s * forward[2].step);
  pooling_.places = places_.data();
  pooling_.whole_planes = by_whole_planes(problem), pooling_.one_run = by_one_run(problem);
  pooling_.beside = by_planes_beside(problem, pass);
  if (pooling_.beside || pooling_.whole_planes || (problem.kind == PoolKind::max && p.backward)) return;
  if (!p.axis[2].adaptive) make_lines();
  make_bands(accumulator_size(p.dtype));
}

void WindowPlan::make_spans(int i) {
  const Pooling& p = pooling_.problem;
  const AxisMap &axis = p.axis[i], &forward = p.forward[i];
  AxisWindows& windows = pooling_.axis[i];
  windows.tap_step = axis.adaptive ? 1 : axis.div / std::gcd(axis.step, axis.div);
  windows.source_step = axis.adaptive ? 1 : windows.tap_step * axis.step / axis.div;
  for (int64_t o = 0; o < forward.out; ++o) covered_[i].push_back(int32_t(forward.covered(o, p.count_include_pad)));
  for (int64_t o = 0; o < axis.out; ++o) {
    Span span{0, -1, 0, true};
    if (axis.adaptive) {
      span = {int32_t(axis.begin(o)), 0, int32_t(axis.end(o) - axis.begin(o)), true};
      for (int64_t source = axis.begin(o); p.backward && source < axis.end(o); ++source)
        span.alike &= covered_[i][source] == covered_[i][span.source];
      spans_[i].push_back(span);
      continue;
    }
    for (int64_t t = 0; t < axis.taps; ++t) {
      const int64_t source = axis.source(o, t);
      if (source < 0) continue;
      if (!span.count++) span.source = int32_t(source), span.tap = int32_t(t);
      if (p.backward) span.alike &= covered_[i][source] == covered_[i][span.source];
    }
    spans_[i].push_back(span);
  }
  windows.spans = spans_[i].data(), windows.covered = covered_[i].data();
}

void WindowPlan::make_lines() {
  WindowPooling& q = pooling_;
  const AxisMap axis = q.problem.axis[2] = alone_apart(q.problem.axis[2]);
  // Calls visit(tap, source column of the phase's output 0) for the taps of phase f.
  const auto for_taps = [&](int64_t f, auto visit) {
    for (int64_t s = 0; s < axis.taps; ++s)
      if (const int64_t at = f * axis.mul + axis.add + s * axis.step; at % axis.div == 0) visit(s, at / axis.div);
  };
  int64_t last = ceil_div(axis.in, axis.mul);
  for (int64_t f = 0; f < axis.div; ++f) {
    for_taps(f, [&](int64_t, int64_t column) {
      const int64_t pixel = floor_div(column, axis.mul);
      q.lead = std::max(q.lead, -pixel), last = std::max(last, pixel + ceil_div(axis.out - f, axis.div));
    });
  }
  q.pitch = q.lead + std::max(last, ceil_div(axis.out, axis.div));
  q.group = std::max<int64_t>(1, std::min(q.planes, kLineElements / (q.pitch * q.pixel)));
  q.line = ceil_div(q.group * q.pitch * q.pixel + kLineOverrun, 16) * 16;
  q.row = axis.mul * q.line;
  for (int64_t f = 0; f < axis.div; ++f) {
    const int64_t first = int64_t(line_taps_.size());
    for_taps(f, [&](int64_t s, int64_t column) {
      const int64_t pixel = floor_div(column, axis.mul);
      line_taps_.push_back({(column - pixel * axis.mul) * q.line + (q.lead + pixel) * q.pixel, s});
    });
    phases_.push_back({first, int64_t(line_taps_.size()) - first});
  }
  q.phases = phases_.data(), q.line_taps = line_taps_.data();
}

void WindowPlan::make_bands(int64_t bytes) {
  WindowPooling& q = pooling_;
  const AxisMap& height = q.problem.axis[1];
  for (const Span& span : spans_[0]) q.slots = std::max<int64_t>(q.slots, span.count);
  // Source rows of `count` output rows, at most.
  const auto rows_of = [&](int64_t count) {
    if (height.adaptive) return std::min(height.in, (count * height.mul + height.div - 1) / height.div + 1);
    const int64_t reach = (height.taps - 1) * std::abs(height.step) + (count - 1) * height.mul;
    return std::min(height.in, reach / height.div + 2);
  };
  q.height = 1;
  while (q.height < height.out && q.slots * rows_of(q.height + 1) * q.row * bytes <= kLinesBudget) ++q.height;
  q.bands = ceil_div(height.out, q.height);
  q.height = ceil_div(height.out, q.bands);
  q.rows = rows_of(q.height);
}

bool by_one_run(const PoolProblem& problem) {
  return problem.layout == Layout::nchw && volume(problem.out) == 1 && problem.window == problem.in &&
         problem.pad == Axes{0, 0, 0} && problem.dilation == Axes{1, 1, 1};
}

bool by_whole_planes(const PoolProblem& problem) {
  if (by_one_run(problem)) return true;
  const bool large = problem.is_adaptive() || problem.out[2] == 1 || volume(problem.window) >= 25;
  return large && problem.kind == PoolKind::average && problem.layout == Layout::nchw && problem.pad == Axes{0, 0, 0} &&
         !problem.ceil_mode;
}

bool by_planes_beside(const PoolProblem& problem, Pass pass) {
  if (problem.layout != Layout::nchw || (problem.kind == PoolKind::max && pass != Pass::fprop)) return false;
  if (by_one_run(problem) || (volume(problem.in) + volume(problem.out)) * kernels().vector_bytes > kBesideBytes)
    return false;
  if (problem.kind == PoolKind::max) return problem.is_adaptive() || problem.out[2] == 1;
  bool apart = true;
  for (int i = 0; i < 3; ++i) apart &= problem.window[i] <= problem.stride[i];
  return apart || by_whole_planes(problem);
}

std::string refuse_windows(const PoolProblem& problem, Pass pass) {
  const Pooling p = pooling(problem, pass);
  for (const AxisMap& axis : p.axis)
    if (axis.in > kTableLimit || axis.out > kTableLimit || axis.out * axis.taps / 16 > kTableLimit)
      return "an axis too long for its table of windows";
  if (volume(problem.window) > kTableLimit) return "a window too large for its table of taps";
  return "";
}

}  // namespace fastconv::cpu
