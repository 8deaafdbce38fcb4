// The two tables' entries, and what they share: problem -> kernel parameters.
#pragma once

#include "cpu/geometry.h"
#include "cpu/kernels/table.h"
#include "fastconv/plan.h"

namespace fastconv::cpu {

inline int64_t accumulator_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

Correlation correlation(const ConvProblem& problem, Pass pass);
WeightGradient weight_gradient(const ConvProblem& problem);
Pooling pooling(const PoolProblem& problem, Pass pass);

Kernel<ConvProblem> direct_entry();
Kernel<ConvProblem> depthwise_entry();
Kernel<ConvProblem> blocked_entry();
Kernel<PoolProblem> direct_pool_entry();
Kernel<PoolProblem> vector_pool_entry();

}  // namespace fastconv::cpu
