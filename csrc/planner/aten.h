// The table entry that every backend ends with: PyTorch's own operator, run by the Python side; of padding that is not
// zeros: whatever the Python side makes of the padded input.
#pragma once

#include "fastconv/plan.h"

namespace fastconv {

// Its cost where it is no rival: dearer than any kernel that accepts, so that PyTorch runs only what is left.
constexpr double last_resort_microseconds = 1e12;

// Of whatever accepts.
inline Cost cheapest(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  Cost best{2 * last_resort_microseconds};
  for (const Candidate& each : candidates(p, pass, options))
    if (each.accepted && each.cost.microseconds < best.microseconds) best = each.cost;
  return best;
}

// The padded input by its cheapest kernel, and `move`: to write it, or to fold its gradient.
inline Cost pads_first_cost(const ConvProblem& p, Pass pass, PlanOptions options, const Cost& move) {
  options.kernel = options.pinned = "";
  Cost cost = cheapest(p.padded(), pass, options);
  cost.microseconds += move.microseconds, cost.bytes += move.bytes;
  return cost;
}

template <class Problem>
Kernel<Problem> aten_entry(Cost (*cost)(const Problem&, Pass, const PlanOptions&)) {
  return {"aten",
          "PyTorch's own operator, where it is measured faster or nothing else accepts the problem",
          [](const Problem&, Pass, const PlanOptions&) { return std::string(); },
          cost,
          nullptr,
          nullptr,
          true};
}

}  // namespace fastconv
