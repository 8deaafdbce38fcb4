// The entry that every backend's table of separable convolutions ends with: the depthwise convolution, then the
// pointwise one, each by its own plan, with z in memory between them. The Python side runs it.
#pragma once

#include <algorithm>

#include "fastconv/plan.h"
#include "planner/aten.h"

namespace fastconv {

// Blocks and occupancy are of no one kernel.
inline Cost two_launches_cost(const SeparableProblem& p, Pass, const PlanOptions& options) {
  PlanOptions first, second = options;
  first.threads = options.threads, first.device = options.device, first.math = options.math;
  first.bias = p.bias, first.activation = p.activation, first.slope = p.slope;
  second.kernel = second.pinned = "";
  const Cost a = cheapest(p.depthwise, Pass::fprop, first), b = cheapest(p.pointwise(), Pass::fprop, second);
  Cost sum{a.microseconds + b.microseconds, a.flops + b.flops, a.bytes + b.bytes};
  sum.l2_bytes = a.l2_bytes + b.l2_bytes, sum.cycles = a.cycles + b.cycles;
  return sum;
}

inline Kernel<SeparableProblem> two_launches_entry() {
  return {"two_launches",
          "a depthwise and a pointwise convolution by their own plans, z in memory",
          [](const SeparableProblem&, Pass, const PlanOptions&) { return std::string(); },
          two_launches_cost,
          nullptr,
          "two_launches"};
}

}  // namespace fastconv
