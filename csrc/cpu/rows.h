// Depthwise 3x3 in NCHW with a stride and a padding of one, of planes more than a vector wide: read where they lie,
// with no padded copy. Lanes lie along the width, and what is loaded serves three rows.
#pragma once

#include "cpu/geometry.h"

namespace fastconv::cpu {

bool by_rows(const ConvProblem& problem);

// fprop or dgrad. A task is one band of a plane.
struct RowsDepthwise {
  Correlation problem;
  int64_t channels, multiplier, bands, rows;  // rows: of a band
  bool reversed, stream;                      // the filter, in the order of the source; past the caches
};

// wgrad. A task is a filter, over some of the bands of its planes; with more than one split each writes its sums to the
// workspace, as the other depthwise kernels do.
struct RowsGradient {
  WeightGradient problem;
  int64_t channels, multiplier, splits, bands, rows;
};

}  // namespace fastconv::cpu
