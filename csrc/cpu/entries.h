// The two tables' entries, and what they share: problem -> kernel parameters.
#pragma once

#include "cpu/geometry.h"
#include "cpu/kernels/table.h"
#include "fastconv/plan.h"

namespace fastconv::cpu {

// A result of so many bytes is written past the caches, which would not keep it (kernels/stream.h).
inline bool streams(int64_t bytes) { return bytes >= 8 << 20; }

inline int64_t accumulator_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

Correlation correlation(const ConvProblem& problem, Pass pass);
WeightGradient weight_gradient(const ConvProblem& problem);
Pooling pooling(const PoolProblem& problem, Pass pass);

inline Correlation with_epilogue(Correlation task, const PlanOptions& options) {
  task.activation = options.activation, task.slope = options.slope;
  return task;
}
inline void set_addresses(Correlation& task, const ConvArgs& args) {
  task.src = args.a, task.w = args.b, task.bias = args.bias, task.residual = args.residual, task.dst = args.out;
}
// Kernels that map padding do so as they copy what they read; dgrad would have to fold what it writes.
inline std::string refuse_folding(const ConvProblem& p, Pass pass) {
  if (p.pad_mode == PadMode::zeros || pass != Pass::dgrad) return "";
  return concat("reads padding by ", name_of(p.pad_mode), ", but folds no gradient");
}
// Exponentials are left to PyTorch's vectorised ones: a pass over the result costs less than calls to libm's.
inline std::string refuse_smooth(const PlanOptions& options) {
  if (is_piecewise(options.activation)) return "";
  return concat(name_of(options.activation), " is quicker by PyTorch's vector functions");
}

Kernel<ConvProblem> direct_entry();
Kernel<ConvProblem> depthwise_entry();
Kernel<ConvProblem> interleaved_entry();
Kernel<ConvProblem> blocked_entry();
Kernel<PoolProblem> direct_pool_entry();
Kernel<PoolProblem> vector_pool_entry();

}  // namespace fastconv::cpu
