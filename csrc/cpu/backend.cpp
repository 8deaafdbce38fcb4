// The native CPU backend's table.
#include "fastconv/plan.h"
#include "planner/aten.h"

namespace fastconv {

BackendInfo backend_info() { return {"cpu", true, "", {"cpu"}, {}}; }

const std::vector<Kernel<ConvProblem>>& conv_kernels() {
  static const std::vector<Kernel<ConvProblem>> table{aten_entry<ConvProblem>(
      [](const ConvProblem& p, Pass pass, const PlanOptions&) { return Cost{1.0, p.flops(pass), p.bytes(pass)}; })};
  return table;
}

const std::vector<Kernel<PoolProblem>>& pool_kernels() {
  static const std::vector<Kernel<PoolProblem>> table{aten_entry<PoolProblem>(
      [](const PoolProblem& p, Pass pass, const PlanOptions&) { return Cost{1.0, p.flops(pass), p.bytes(pass)}; })};
  return table;
}

}  // namespace fastconv
