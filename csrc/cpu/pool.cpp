// The table's "pool" entry: max and average pooling, any geometry, every pass.
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

Cost cost(const PoolProblem& p, Pass pass, const PlanOptions&) {
  const double flops = p.flops(pass), bytes = p.bytes(pass);
  return {0.5 + flops / 1e3, flops, bytes};
}

Task kernel_for(PoolKind kind, Pass pass) {
  if (kind == PoolKind::average) return kernels().average_pool;
  if (pass == Pass::fprop) return kernels().max_pool;
  return pass == Pass::dgrad ? kernels().max_pool_dgrad : kernels().max_pool_gather;
}

Prepared<PoolProblem> prepare(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds);
  const Pooling task = pooling(p, pass);
  const Task kernel = kernel_for(p.kind, pass);
  const bool offsets = options.offsets || pass != Pass::fprop, indices = options.indices;
  const int64_t planes = p.layout == Layout::nchw ? p.n * p.c : p.n;
  const int64_t rows = planes * task.axis[0].out * task.axis[1].out, grain = rows / 64 + 1;
  return {[=](const PoolArgs& args) {
            Pooling run = task;
            run.src = args.src, run.dst = args.dst;
            run.offsets = offsets ? args.offsets : nullptr, run.indices = indices ? args.indices : nullptr;
            parallel_for(rows, grain, threads, kernel, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s")};
}

}  // namespace

Kernel<PoolProblem> pool_entry() {
  return {"pool", "max and average pooling, any geometry; channels in the inner loop", refuse, cost, prepare};
}

}  // namespace fastconv::cpu
