// The table's "direct" entry: any geometry, layout and dtype, every pass.
#include "cpu/costs.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

std::string refuse(const ConvProblem&, Pass pass, const PlanOptions& options) {
  return pass == Pass::gather ? "a convolution has no gather pass" : refuse_smooth(options);
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::direct);
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const std::string detail = concat(threads, " thread", threads == 1 ? "" : "s");
  if (pass == Pass::bgrad) {
    BiasGradient task{p.dtype, p.layout, p.n, p.k, volume(p.out), nullptr, nullptr};
    const int64_t grain = p.layout == Layout::nchw ? 1 : 64;
    return {[task, grain, threads](const ConvArgs& args) {
              BiasGradient run = task;
              run.gy = args.a, run.gb = args.out;
              parallel_for(run.k, grain, threads, kernels().bias_gradient, &run);
            },
            0, detail};
  }
  if (pass == Pass::wgrad) {
    return {[task = weight_gradient(p), threads](const ConvArgs& args) {
              WeightGradient run = task;
              run.x = args.a, run.gy = args.b, run.gw = args.out;
              parallel_for(run.groups * run.k * run.c, 1, threads, kernels().direct_weight_gradient, &run);
            },
            0, detail};
  }
  return {[task = with_epilogue(correlation(p, pass), options), threads](const ConvArgs& args) {
            Correlation run = task;
            set_addresses(run, args);
            const int64_t rows = run.n * run.groups * run.dst_channels * run.axis[0].out * run.axis[1].out;
            parallel_for(rows, 16, threads, kernels().direct_correlation, &run);
          },
          0, detail};
}

}  // namespace

Kernel<ConvProblem> direct_entry() {
  return {"direct", "any geometry, layout and dtype; a row of outputs at a time", refuse, cost, prepare};
}

}  // namespace fastconv::cpu
