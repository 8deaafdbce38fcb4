// The native CPU backend's tables.
#include <omp.h>

#include "cpu/costs.h"
#include "cpu/entries.h"
#include "planner/aten.h"

namespace fastconv {

BackendInfo backend_info() {
  return {"cpu", true, "", {"cpu"}, {{"isa", cpu::kernels().isa}, {"threads", std::to_string(omp_get_max_threads())}}};
}

const std::vector<Kernel<ConvProblem>>& conv_kernels() {
  static const std::vector<Kernel<ConvProblem>> table{
      cpu::direct_entry(), cpu::depthwise_entry(), cpu::blocked_entry(),
      aten_entry<ConvProblem>([](const ConvProblem& p, Pass pass, const PlanOptions& options) {
        return cpu::conv_cost(p, pass, options, cpu::Maker::aten);
      })};
  return table;
}

const std::vector<Kernel<PoolProblem>>& pool_kernels() {
  static const std::vector<Kernel<PoolProblem>> table{
      cpu::direct_pool_entry(), cpu::vector_pool_entry(),
      aten_entry<PoolProblem>([](const PoolProblem& p, Pass pass, const PlanOptions& options) {
        return cpu::pool_cost(p, pass, options, cpu::Maker::aten);
      })};
  return table;
}

}  // namespace fastconv
