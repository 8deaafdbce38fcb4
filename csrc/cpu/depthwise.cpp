// The table's "depthwise" entry: one filter a channel; each layout has its own kernels (cpu/depthwise.h).
#include "cpu/depthwise.h"

#include <algorithm>
#include <memory>

#include "cpu/band.h"
#include "cpu/costs.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions&) {
  if (pass == Pass::gather) return "a convolution has no gather pass";
  if (pass == Pass::bgrad) return "the bias gradient has no filter";
  if (p.c_per_group() != 1) return concat(p.c_per_group(), " input channels per group: not depthwise");
  if (pass == Pass::dgrad && p.k_per_group() != 1)
    return concat(p.k_per_group(), " filters a channel: dgrad takes one");
  const Correlation task = correlation(p, pass == Pass::dgrad ? pass : Pass::fprop);
  if (pass == Pass::wgrad) return refuse_band(task.axis, accumulator_size(p.dtype));
  return p.layout == Layout::nchw ? refuse_planar(task.axis, accumulator_size(p.dtype)) : refuse_phases(task.axis);
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::fast);
}

Prepared<ConvProblem> prepare_wgrad(const ConvProblem& p, const PlanOptions& options) {
  DepthwiseGradient task{weight_gradient(p), {p.layout, 1, p.k, p.k_per_group()}, nullptr, 1, 1};
  const int64_t size = accumulator_size(p.dtype);
  const auto plan = std::make_shared<BandPlan>(task.problem.axis, size);
  const Band& band = plan->band();
  task.band = &band;
  // Some 32 tasks, whatever the number of threads, for bits must not depend on it. NCHW prefers to split the channels
  // (no second stage), NHWC the bands (whole pixels at a time).
  const int64_t blocks = task.planes.blocks_per_sample(), units = p.n * p.out[0] * band.bands, wanted = 32;
  if (p.layout == Layout::nchw) {
    task.groups = std::min(blocks, wanted);
    task.splits = std::min(units, (wanted + task.groups - 1) / task.groups);
  } else {
    task.splits = std::min(units, wanted);
    task.groups = std::min(blocks, (wanted + task.splits - 1) / task.splits);
  }
  const int threads = usable_threads(options.threads, cost(p, Pass::wgrad, options).microseconds > kSerialMicroseconds);
  return {[task, plan, blocks, threads](const ConvArgs& args) {
            DepthwiseGradient run = task;
            run.problem.x = args.a, run.problem.gy = args.b, run.problem.gw = args.out;
            run.problem.partial = args.workspace;
            parallel_for(run.groups * run.splits, 1, threads, kernels().depthwise_gradient, &run);
            if (run.splits > 1) parallel_for(blocks, blocks / 16 + 1, threads, kernels().depthwise_gradient_sum, &run);
          },
          task.splits > 1 ? task.splits * blocks * band.taps_in_all * kBlock * size : 0,
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", task.groups, " channel groups, ", task.splits,
                 " splits")};
}

Prepared<ConvProblem> prepare_planar(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  PlanarDepthwise task{correlation(p, pass), pass == Pass::fprop ? p.k : p.c, p.k_per_group(), nullptr};
  const auto plan = std::make_shared<PlanarPlan>(task.problem.axis, accumulator_size(p.dtype));
  const Planar& planar = plan->planar();
  task.planar = &planar;
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = p.n * task.channels * planar.axis[0].out * planar.bands;
  return {[task, plan, tasks, threads](const ConvArgs& args) {
            PlanarDepthwise run = task;
            run.problem.src = args.a, run.problem.w = args.b, run.problem.bias = args.bias, run.problem.dst = args.out;
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().planar_depthwise, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", planar.height, " rows")};
}

Prepared<ConvProblem> prepare_pixels(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  PixelDepthwise task{
      correlation(p, pass), pass == Pass::fprop ? p.k : p.c, p.k_per_group(), volume(p.filter), {}, nullptr};
  const auto phases = std::make_shared<Phases>(task.problem.axis);
  for (int i = 0; i < 3; ++i) task.phase[i] = phases->axis[i].data();
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = p.n * task.problem.axis[0].out * task.problem.axis[1].out;
  return {[task, phases, tasks, threads](const ConvArgs& args) {
            PixelDepthwise run = task;
            run.problem.src = args.a, run.problem.w = args.b, run.problem.bias = args.bias, run.problem.dst = args.out;
            run.packed = args.workspace;
            kernels().pixel_pack(&run, 0, run.channels);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().pixel_depthwise, &run);
          },
          (task.taps + 1) * task.channels * accumulator_size(p.dtype),
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " rows")};
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_wgrad(p, options);
  return p.layout == Layout::nchw ? prepare_planar(p, pass, options) : prepare_pixels(p, pass, options);
}

}  // namespace

Kernel<ConvProblem> depthwise_entry() {
  return {"depthwise",
          "one filter a channel, any stride and dilation; vectors along the width (NCHW) or of channels (NHWC)", refuse,
          cost, prepare};
}

}  // namespace fastconv::cpu
