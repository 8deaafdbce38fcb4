// The table entry that every backend ends with: PyTorch's own operator, run by the Python side; of padding that is not
// zeros: whatever the Python side makes of the padded input.
#pragma once

#include "fastconv/plan.h"

namespace fastconv {

// Its cost where it is no rival: dearer than any kernel that accepts, so that PyTorch runs only what is left.
constexpr double last_resort_microseconds = 1e12;

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
