// The pooling table: "direct" for any geometry and pass, "banded" for bands in cache (cpu/band.h).
#include <memory>

#include "cpu/band.h"
#include "cpu/costs.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

std::string refuse(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad || pass == Pass::bgrad) return "pooling has no weights";
  if (p.kind == PoolKind::average && pass == Pass::gather) return "average pooling has no gather pass";
  if (p.kind == PoolKind::average && (options.offsets || options.indices)) return "average pooling has no winning taps";
  if (volume(p.window) > INT32_MAX) return "a window of more than 2^31 taps";
  return "";
}

Cost cost(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  return pool_cost(p, pass, options, Maker::direct);
}

// Kernel, and how many tasks it has: rows, or whole planes for scatter and gather.
struct Work {
  Task kernel;
  int64_t tasks;
};

Work work_for(const PoolProblem& p, Pass pass, const Pooling& task) {
  const bool nchw = p.layout == Layout::nchw;
  const int64_t rows = (nchw ? p.n * p.c : p.n) * task.axis[0].out * task.axis[1].out;
  const int64_t planes = p.n * (nchw ? p.c : (p.c + kPoolChannels - 1) / kPoolChannels);
  if (p.kind == PoolKind::average) return {kernels().average_pool, rows};
  if (pass == Pass::fprop) return {kernels().max_pool, rows};
  if (pass == Pass::gather) return {kernels().max_pool_gather, planes};
  const bool wide = p.dtype == DType::f32 || p.dtype == DType::f64;
  return wide ? Work{kernels().max_pool_scatter, planes} : Work{kernels().max_pool_dgrad, rows};
}

Prepared<PoolProblem> prepare(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const Pooling task = pooling(p, pass);
  const Work work = work_for(p, pass, task);
  const bool offsets = options.offsets || pass != Pass::fprop, indices = options.indices;
  return {[=](const PoolArgs& args) {
            Pooling run = task;
            run.src = args.src, run.dst = args.dst;
            run.offsets = offsets ? args.offsets : nullptr, run.indices = indices ? args.indices : nullptr;
            parallel_for(work.tasks, work.tasks / 64 + 1, threads, work.kernel, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s")};
}

std::string refuse_banded(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const std::string reason = refuse(p, pass, options);
  if (!reason.empty()) return reason;
  if (pass == Pass::gather) return "gather reads one element an output: no window to keep in a band";
  return refuse_band(pooling(p, pass).axis, 2 * accumulator_size(p.dtype));
}

Cost banded_cost(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  return pool_cost(p, pass, options, Maker::fast);
}

Prepared<PoolProblem> prepare_banded(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  BandedPooling task{pooling(p, pass), {p.layout, p.n, p.c, 1}, nullptr};
  const bool maximum = p.kind == PoolKind::max;
  // dgrad of max keeps the offsets beside the gradients: twice the bytes.
  const auto plan = std::make_shared<BandPlan>(task.problem.axis,
                                               accumulator_size(p.dtype) * (maximum && pass == Pass::dgrad ? 2 : 1));
  const Band& band = plan->band();
  task.band = &band;
  const Task kernel = maximum ? kernels().banded_max_pool : kernels().banded_average_pool;
  const bool offsets = options.offsets || pass == Pass::dgrad, indices = options.indices;
  const int threads = usable_threads(options.threads, banded_cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = task.planes.blocks() * band.axis[0].out * band.bands;
  return {[=](const PoolArgs& args) {
            BandedPooling run = task;
            run.band = &plan->band();
            run.problem.src = args.src, run.problem.dst = args.dst;
            run.problem.offsets = offsets ? args.offsets : nullptr;
            run.problem.indices = indices ? args.indices : nullptr;
            parallel_for(tasks, tasks / 64 + 1, threads, kernel, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", band.height, " rows")};
}

}  // namespace

Kernel<PoolProblem> direct_pool_entry() {
  return {"direct", "any geometry and pass; channels in the inner loop", refuse, cost, prepare};
}

Kernel<PoolProblem> banded_pool_entry() {
  return {"banded", "vectors of planes, bands of rows in cache", refuse_banded, banded_cost, prepare_banded};
}

}  // namespace fastconv::cpu
