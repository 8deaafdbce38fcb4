// The native CPU backend's tables.
#include <omp.h>

#include "cpu/costs.h"
#include "cpu/entries.h"
#include "planner/aten.h"
#include "planner/two_launches.h"

namespace fastconv {

BackendInfo backend_info() {
  return {"cpu", true, "", {"cpu"}, {{"isa", cpu::kernels().isa}, {"threads", std::to_string(omp_get_max_threads())}}};
}

namespace {

// With an epilogue "aten" is the composition: the best plan without one, then PyTorch's operators on its result.
Cost cost_of_aten(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (p.pad_mode != PadMode::zeros && pass != Pass::bgrad)
    return pads_first_cost(p, pass, options, cpu::padding_cost(p, pass, options));
  Cost best = cpu::conv_cost(p, pass, options, cpu::Maker::aten);
  if (refuse_epilogue(options).empty()) return best;
  PlanOptions plain = options;
  plain.residual = false, plain.activation = Activation::none;
  for (const auto& kernel :
       {cpu::direct_entry(), cpu::depthwise_entry(), cpu::interleaved_entry(), cpu::blocked_entry()}) {
    if (!kernel.refuse(p, pass, plain).empty()) continue;
    const Cost cost = kernel.cost(p, pass, plain);
    if (cost.microseconds < best.microseconds) best = cost;
  }
  const int operators = int(options.residual) + int(options.activation != Activation::none);
  best.microseconds += operators * cpu::elementwise_microseconds(p, options);
  return best;
}

}  // namespace

const std::vector<Kernel<ConvProblem>>& conv_kernels() {
  static const std::vector<Kernel<ConvProblem>> table{cpu::direct_entry(), cpu::depthwise_entry(),
                                                      cpu::interleaved_entry(), cpu::blocked_entry(),
                                                      aten_entry<ConvProblem>(cost_of_aten)};
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

const std::vector<Kernel<SeparableProblem>>& separable_kernels() {
  static const std::vector<Kernel<SeparableProblem>> table{two_launches_entry()};
  return table;
}

}  // namespace fastconv
