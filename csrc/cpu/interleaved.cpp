// The table's "interleaved" entry: depthwise convolution, and that of small groups, on blocks of channels
// (cpu/interleaved.h).
#include "cpu/interleaved.h"

#include <algorithm>
#include <memory>

#include "cpu/costs.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

constexpr int64_t kPixels = 3 << 10;  // of scratch: a block's are 192 KiB of float, and stay in L2
constexpr int64_t kTasks = 32;        // of wgrad, about: whatever the number of threads, bits must not depend on it

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::gather) return "a convolution has no gather pass";
  if (pass == Pass::bgrad) return "the bias gradient has no filter";
  if (auto reason = refuse_folding(p, pass); !reason.empty()) return reason;
  const int64_t c = p.c_per_group(), k = p.k_per_group();
  if (c != k || (c != 1 && c != 4 && c != 8))
    return concat("groups of ", c, " channels to ", k, ": 1, 4 or 8 to as many");
  if (c * accumulator_size(p.dtype) > kernels().vector_bytes)
    return concat("groups of ", c, " channels fill no vector");
  if (p.in[0] != 1 || p.out[0] != 1 || p.filter[0] != 1) return "three dimensions";
  if (auto reason = refuse_epilogue(options); !reason.empty()) return reason;
  const Correlation task = correlation(p, pass == Pass::dgrad ? pass : Pass::fprop);
  return refuse_band(task.axis, accumulator_size(p.dtype));
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::interleaved);
}

int threads_for(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
}

std::string describe(int threads, int64_t tasks, const Interleaved& layout) {
  return concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " tasks, bands of ", layout.out_rows(),
                " rows");
}

Prepared<ConvProblem> prepare_gradient(const ConvProblem& p, const PlanOptions& options) {
  InterleavedGradient task{weight_gradient(p), p.k, (p.k + kBlock - 1) / kBlock, p.c_per_group(), 1, nullptr};
  const auto plan = std::make_shared<InterleavedPlan>(task.problem.axis, kPixels);
  task.layout = &plan->layout();
  task.splits = std::max<int64_t>(1, std::min(p.n * task.layout->bands, (kTasks + task.blocks - 1) / task.blocks));
  const int threads = threads_for(p, Pass::wgrad, options);
  const int64_t taps = task.layout->taps * task.terms, tasks = task.blocks * task.splits;
  const auto launch = [task, plan, threads, taps, tasks](const ConvArgs& args) {
    InterleavedGradient run = task;
    run.problem.x = args.a, run.problem.gy = args.b, run.problem.gw = args.out, run.problem.partial = args.workspace;
    parallel_for(tasks, 1, threads, kernels().interleaved_gradient, &run);
    if (run.splits == 1) return;
    const GradientSum sum{run.problem.dtype, run.channels, taps, run.splits, args.workspace, args.out};
    parallel_for(sum.channels, sum.channels / 4 + 1, threads, kernels().depthwise_gradient_sum, &sum);
  };
  return {launch, task.splits > 1 ? task.splits * p.k * taps * accumulator_size(p.dtype) : 0,
          describe(threads, tasks, *task.layout)};
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_gradient(p, options);
  InterleavedDepthwise task{correlation(p, pass), p.c, (p.c + kBlock - 1) / kBlock, p.c_per_group(), nullptr, nullptr};
  const auto plan = std::make_shared<InterleavedPlan>(task.problem.axis, kPixels);
  task.layout = &plan->layout();
  const int threads = threads_for(p, pass, options);
  const int64_t tasks = p.n * task.blocks * task.layout->bands;
  const auto launch = [task, plan, threads, tasks](const ConvArgs& args) {
    InterleavedDepthwise run = task;
    set_addresses(run.problem, args);
    run.packed = args.workspace;
    parallel_for(run.blocks, 16, threads, kernels().interleaved_pack, &run);
    parallel_for(tasks, tasks / 64 + 1, threads, kernels().interleaved_depthwise, &run);
  };
  return {launch, task.blocks * (task.layout->taps * task.terms + 1) * kBlock * accumulator_size(p.dtype),
          describe(threads, tasks, *task.layout)};
}

}  // namespace

InterleavedPlan::InterleavedPlan(const AxisMap (&axis)[3], int64_t most) : phases_(axis) {
  Interleaved& b = layout_;
  b.height = axis[1], b.width = axis[2];
  b.rows_of = phases_.axis[1].data(), b.columns_of = phases_.axis[2].data();
  const Reach rows = reach_of(phases_.axis[1]), columns = reach_of(phases_.axis[2]);
  const int64_t outputs = phases_.axis[1][0].outputs;
  b.lead = std::max<int64_t>(0, -columns.low);
  b.pitch = b.lead + std::max<int64_t>(1, columns.high + (phases_.axis[2][0].outputs - 1) * b.width.mul + 1);
  // What pads may lie anywhere in a row, which is read as a whole then.
  if (b.width.pad_mode != PadMode::zeros) b.pitch = std::max(b.pitch, b.lead + b.width.in);
  b.top = rows.low, b.taps = b.height.taps * b.width.taps;
  const auto rows_for = [&](int64_t phase_rows) { return (phase_rows - 1) * b.height.mul + rows.high - rows.low + 1; };
  const auto pixels = [&](int64_t phase_rows) {
    return rows_for(phase_rows) * b.pitch + phase_rows * b.height.div * b.width.out;
  };
  int64_t phase_rows = 1;
  while (phase_rows < outputs && pixels(phase_rows + 1) <= most) ++phase_rows;
  b.bands = (outputs + phase_rows - 1) / phase_rows;
  b.phase_rows = (outputs + b.bands - 1) / b.bands;
  b.rows = rows_for(b.phase_rows);
}

Kernel<ConvProblem> interleaved_entry() {
  return {"interleaved",
          "one filter a channel, or groups of four or eight; blocks of channels side by side in a padded copy that "
          "stays in cache",
          refuse,
          cost,
          prepare,
          nullptr,
          true};
}

}  // namespace fastconv::cpu
