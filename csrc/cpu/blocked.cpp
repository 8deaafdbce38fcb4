// The table's "blocked" entry: dense and grouped convolution, blocks of output channels, bands in cache (cpu/band.h).
#include <algorithm>
#include <memory>

#include "cpu/band.h"
#include "cpu/costs.h"
#include "cpu/depthwise.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

constexpr int64_t kTasks = 32;  // of wgrad, about: whatever the number of threads, bits must not depend on it

// Bytes of band per kBlock-th of a pixel: the band holds all the group's source channels there.
int64_t band_bytes(int64_t channels, DType dtype) { return (accumulator_size(dtype) * channels + kBlock - 1) / kBlock; }

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::gather) return "a convolution has no gather pass";
  if (pass == Pass::bgrad) return "the bias gradient has no filter";
  if (auto reason = refuse_folding(p, pass); !reason.empty()) return reason;
  if (auto reason = refuse_smooth(options); !reason.empty()) return reason;
  const Correlation task = correlation(p, pass == Pass::dgrad ? pass : Pass::fprop);
  return refuse_band(task.axis, band_bytes(task.src_channels, p.dtype));
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::blocked);
}

int threads_for(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
}

std::string describe(int threads, int64_t tasks, const Band& band) {
  return concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " tasks, bands of ", band.height, " rows");
}

Prepared<ConvProblem> prepare_gradient(const ConvProblem& p, const PlanOptions& options) {
  BlockedGradient task{weight_gradient(p), nullptr, 1};
  const auto plan = std::make_shared<BandPlan>(task.problem.axis, band_bytes(task.problem.c, p.dtype));
  const Band& band = plan->band();
  task.band = &band;
  const int64_t blocks = p.groups * ((task.problem.k + kBlock - 1) / kBlock), units = p.n * p.out[0] * band.bands;
  task.splits = std::max<int64_t>(1, std::min(units, (kTasks + blocks - 1) / blocks));
  const int threads = threads_for(p, Pass::wgrad, options);
  const int64_t filter = task.problem.w_k, tasks = blocks * task.splits;
  const auto launch = [task, plan, threads, filter, tasks, k = p.k](const ConvArgs& args) {
    BlockedGradient run = task;
    run.problem.x = args.a, run.problem.gy = args.b, run.problem.gw = args.out, run.problem.partial = args.workspace;
    parallel_for(tasks, 1, threads, kernels().blocked_gradient, &run);
    if (run.splits == 1) return;
    const GradientSum sum{run.problem.dtype, k, filter, run.splits, args.workspace, args.out};
    parallel_for(k, k / 4 + 1, threads, kernels().depthwise_gradient_sum, &sum);
  };
  return {launch, task.splits > 1 ? task.splits * p.k * filter * accumulator_size(p.dtype) : 0,
          describe(threads, tasks, band)};
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_gradient(p, options);
  Blocked task{with_epilogue(correlation(p, pass), options), nullptr, 0, nullptr};
  const auto plan = std::make_shared<BandPlan>(task.problem.axis, band_bytes(task.problem.src_channels, p.dtype));
  const Band& band = plan->band();
  const int64_t channels = task.problem.src_channels, blocks = (task.problem.dst_channels + kBlock - 1) / kBlock;
  task.band = &band;
  task.band_elements = band.elements / kBlock * channels;
  const int threads = threads_for(p, pass, options);
  const int64_t tasks = p.n * p.groups * band.axis[0].out * band.bands;
  return {[task, plan, tasks, blocks, threads](const ConvArgs& args) {
            Blocked run = task;
            set_addresses(run.problem, args);
            run.packed = args.workspace;
            parallel_for(run.problem.groups * blocks, 4, threads, kernels().blocked_pack, &run);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().blocked, &run);
          },
          p.groups * blocks * band.taps_in_all * channels * kBlock * accumulator_size(p.dtype),
          describe(threads, tasks, band)};
}

}  // namespace

Kernel<ConvProblem> blocked_entry() {
  return {"blocked", "dense and grouped, any stride and dilation; blocks of output channels, packed weights",
          refuse,    cost,
          prepare,   nullptr,
          true};
}

}  // namespace fastconv::cpu
