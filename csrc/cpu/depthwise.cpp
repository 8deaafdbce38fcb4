// The table's "depthwise" entry: one filter a channel, on bands in cache (cpu/band.h).
#include <memory>

#include "cpu/band.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

int64_t accumulator_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::fprop && pass != Pass::dgrad) return "fprop and dgrad only";
  if (p.c_per_group() != 1) return concat(p.c_per_group(), " input channels per group: not depthwise");
  if (pass == Pass::dgrad && p.k_per_group() != 1) return concat(p.k_per_group(), " filters a channel: dgrad takes one");
  return refuse_band(correlation(p, pass).axis, accumulator_size(p.dtype));
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions&) {
  const double flops = p.flops(pass), bytes = p.bytes(pass);
  return {0.5 + flops / 2e4, flops, bytes};
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  Depthwise task{correlation(p, pass), {p.layout, p.n, pass == Pass::fprop ? p.k : p.c, p.k_per_group()}, nullptr};
  if (p.k_per_group() > 1) task.problem.w_group = task.problem.w_dst;  // by output channel
  const auto plan = std::make_shared<BandPlan>(task.problem.axis, accumulator_size(p.dtype));
  const Band& band = plan->band();
  task.band = &band;
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds);
  const int64_t tasks = task.planes.blocks() * band.axis[0].out * band.bands;
  return {[task, plan, tasks, threads](const ConvArgs& args) {
            Depthwise run = task;
            run.problem.src = args.a, run.problem.w = args.b, run.problem.bias = args.bias, run.problem.dst = args.out;
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().depthwise, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", band.height, " rows")};
}

}  // namespace

Kernel<ConvProblem> depthwise_entry() {
  return {"depthwise", "one filter a channel, any stride and dilation; vectors of channels, bands of rows in cache",
          refuse, cost, prepare};
}

}  // namespace fastconv::cpu
