// The tables of the GPU kernels, the same for CUDA and for the emulator.
#include "planner/gpu.h"

#include "planner/aten.h"
#include "planner/cost.h"
#include "planner/two_launches.h"

namespace fastconv {
namespace {

template <class Problem>
Kernel<Problem> last_resort() {
  return aten_entry<Problem>([](const Problem& p, Pass pass, const PlanOptions&) {
    return Cost{last_resort_microseconds, p.flops(pass), p.bytes(pass)};
  });
}

template <>
Kernel<ConvProblem> last_resort() {
  return aten_entry<ConvProblem>([](const ConvProblem& p, Pass pass, const PlanOptions& options) {
    const Cost none{last_resort_microseconds, p.flops(pass), p.bytes(pass)};
    if (p.pad_mode == PadMode::zeros || pass == Pass::bgrad) return none;
    const double bytes = double((p.padded().x_elements() + p.x_elements()) * size_of(p.dtype));
    Cost move = planner::roofline(p.dtype, {1, 0, 1, bytes});
    // PyTorch's operators: some three to pad, and to fold two for each side of an axis.
    move.microseconds += (pass == Pass::dgrad ? 7 : 2) * planner::h100.launch_microseconds;
    return pads_first_cost(p, pass, options, move);
  });
}

template <class Problem>
std::vector<Kernel<Problem>> ending_with_aten(std::vector<Kernel<Problem>> table) {
  table.push_back(last_resort<Problem>());
  return table;
}

}  // namespace

const std::vector<Kernel<ConvProblem>>& conv_kernels() {
  static const auto table = ending_with_aten(planner::direct_conv_kernels());
  return table;
}

const std::vector<Kernel<PoolProblem>>& pool_kernels() {
  static const auto table = ending_with_aten(planner::direct_pool_kernels());
  return table;
}

const std::vector<Kernel<SeparableProblem>>& separable_kernels() {
  static const auto table = [] {
    auto entries = planner::separable_entries();
    entries.push_back(two_launches_entry());
    return entries;
  }();
  return table;
}

}  // namespace fastconv
