// The pooling table: "direct" for any geometry and pass, "vector" for vectors (cpu/windows.h).
#include <memory>

#include "cpu/costs.h"
#include "cpu/entries.h"
#include "cpu/max_gradient.h"
#include "cpu/results.h"

namespace fastconv::cpu {
namespace {

std::string refuse(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad || pass == Pass::bgrad) return "pooling has no weights";
  if (p.kind == PoolKind::average && pass >= Pass::gather)
    return concat("average pooling has no ", name_of(pass), " pass");
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
  if (pass == Pass::unpool) return {kernels().max_unpool, planes};
  if (pass == Pass::pick) return {kernels().max_unpool_pick, planes};
  const bool wide = p.dtype == DType::f32 || p.dtype == DType::f64;
  return wide ? Work{kernels().max_pool_scatter, planes} : Work{kernels().max_pool_dgrad, rows};
}

Prepared<PoolProblem> prepare(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const Pooling task = pooling(p, pass);
  const Work work = work_for(p, pass, task);
  const bool offsets = options.offsets || pass != Pass::fprop, indices = options.indices || pass >= Pass::unpool;
  return {[=](const PoolArgs& args) {
            Pooling run = task;
            run.src = args.src, run.dst = args.dst;
            run.offsets = offsets ? args.offsets : nullptr, run.indices = indices ? args.indices : nullptr;
            parallel_for(work.tasks, work.tasks / 64 + 1, threads, work.kernel, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s")};
}

// Vectors of channels where a pixel fills them, else along the rows.
bool by_channels(const PoolProblem& p) {
  return p.layout == Layout::nhwc && p.c * accumulator_size(p.dtype) >= kernels().vector_bytes;
}

bool scatters_maxima(const PoolProblem& p, Pass pass) {
  return p.kind == PoolKind::max && pass == Pass::dgrad && by_tiles(p);
}

std::string refuse_vector(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const std::string reason = refuse(p, pass, options);
  if (!reason.empty()) return reason;
  if (pass >= Pass::gather) return concat(name_of(pass), " moves one element an output, wherever it lies");
  const bool scatters = scatters_maxima(p, pass);
  if (p.per[2] > 1 && !by_channels(p) && !by_whole_planes(p) && !by_planes_beside(p, pass) && !scatters)
    return "adaptive windows along the rows: their starts are not evenly spaced";
  if (scatters && !refuse_max_gradient(p).empty()) return refuse_max_gradient(p);
  return refuse_windows(p, pass);
}

Cost vector_cost(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  return pool_cost(p, pass, options, Maker::fast);
}

bool aligned(const void* tensor) { return reinterpret_cast<uintptr_t>(tensor) % 64 == 0; }

Prepared<PoolProblem> prepare_tiles(const PoolProblem& p, const PlanOptions& options) {
  const auto plan = std::make_shared<const MaxGradientPlan>(p);
  const int64_t tasks = plan->tasks();
  const double microseconds = vector_cost(p, Pass::dgrad, options).microseconds;
  const int threads = usable_threads(options.threads, microseconds > kSerialMicroseconds);
  return {[=](const PoolArgs& args) {
            MaxGradient run = plan->gradient();
            run.problem.src = args.src, run.problem.dst = args.dst, run.problem.offsets = args.offsets;
            run.stream &= run.problem.layout == Layout::nchw || aligned(args.dst);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().max_gradient, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " tiles")};
}

Prepared<PoolProblem> prepare_vector(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  if (scatters_maxima(p, pass)) return prepare_tiles(p, options);
  const auto plan = std::make_shared<const WindowPlan>(p, pass);
  const bool maximum = p.kind == PoolKind::max, beside = by_planes_beside(p, pass), channels = beside || by_channels(p);
  const Task kernel = maximum ? (channels ? kernels().max_pool_channels : kernels().max_pool_rows)
                              : (channels ? kernels().average_pool_channels : kernels().average_pool_rows);
  const WindowPooling& task = plan->pooling();
  const AxisMap(&axis)[3] = task.problem.axis;
  const int64_t side_by_side = kernels().vector_bytes / accumulator_size(p.dtype);
  const int64_t tasks = beside ? (task.planes + side_by_side - 1) / side_by_side
                        : task.whole_planes
                            ? task.planes
                            : axis[0].out * (channels ? task.planes * axis[1].out
                                                      : (task.planes + task.group - 1) / task.group * task.bands);
  const bool offsets = options.offsets || pass == Pass::dgrad, indices = options.indices;
  const bool large = streams(result_bytes(p, pass)) && p.c * size_of(p.dtype) % kernels().vector_bytes == 0;
  const int threads = usable_threads(options.threads, vector_cost(p, pass, options).microseconds > kSerialMicroseconds);
  return {[=](const PoolArgs& args) {
            WindowPooling run = plan->pooling();
            run.problem.src = args.src, run.problem.dst = args.dst;
            run.problem.offsets = offsets ? args.offsets : nullptr;
            run.problem.indices = indices ? args.indices : nullptr;
            run.stream = large && !beside && aligned(args.dst);
            parallel_for(tasks, tasks / 64 + 1, threads, kernel, &run);
          },
          0,
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks,
                 beside              ? " vectors of planes"
                 : task.whole_planes ? " planes"
                 : channels          ? " rows of vectors of channels"
                                     : " bands of vectors along the rows")};
}

}  // namespace

Kernel<PoolProblem> direct_pool_entry() {
  return {"direct", "any geometry and pass; channels in the inner loop", refuse, cost, prepare};
}

Kernel<PoolProblem> vector_pool_entry() {
  return {"vector", "vectors of channels in NHWC, along the rows in NCHW", refuse_vector, vector_cost, prepare_vector};
}

}  // namespace fastconv::cpu
