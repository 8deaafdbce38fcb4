// What a kernel will take, predicted: every constant of the CPU planner's model, in one place.
//
//   microseconds = call + (element * (elements read and written) + tap * (outputs * taps)) / threads
//
// Fitted (non-negative least squares of relative error, float32, one thread of an AMD EPYC with AVX2, torch 2.13) to
// some 60 convolutions and 45 poolings a kernel; median error 10 %, nine in ten within a factor of two. Depthwise
// and grouped layers (bench's suites of those names, at batches of one and four) were fitted on a busy machine: median
// error 25 %, and in the geometric mean the chosen kernel takes 3 to 10 % longer than the fastest; the row
// kernels' rates (cpu/rows.h) are those of a few layers, scaled by their neighbours'. Only ratios decide,
// and both sides of a comparison were timed in turn, so other machines shift the border little.
#pragma once

#include "fastconv/plan.h"

namespace fastconv::cpu {

struct Rate {
  double call_us, element_ns, tap_ns;
};

// Work below this many microseconds stays on the calling thread: a parallel region takes 5 to 10 to start and join.
constexpr double kSerialMicroseconds = 20;

enum class Maker { direct, fast, interleaved, blocked, aten };  // `fast`: "depthwise", and "vector" pooling

Cost conv_cost(const ConvProblem& problem, Pass pass, const PlanOptions& options, Maker maker);
// One of PyTorch's operators in place on a convolution's result: 0.07 (relu_) to 0.35 ns an element (add_, beyond the
// caches).
double elementwise_microseconds(const ConvProblem& problem, const PlanOptions& options);
// PyTorch's padding other than by zeros written out, or its gradient folded back.
Cost padding_cost(const ConvProblem& problem, Pass pass, const PlanOptions& options);
Cost pool_cost(const PoolProblem& problem, Pass pass, const PlanOptions& options, Maker maker);

}  // namespace fastconv::cpu
