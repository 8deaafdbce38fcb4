// The table's "blocked" entry: dense and grouped convolution, blocks of output channels, bands in cache (cpu/band.h).
#include <memory>

#include "cpu/band.h"
#include "cpu/costs.h"
#include "cpu/entries.h"

namespace fastconv::cpu {
namespace {

// Bytes of band per kBlock-th of a pixel: the band holds all the group's source channels there.
int64_t band_bytes(const Correlation& task, DType dtype) {
  return (accumulator_size(dtype) * task.src_channels + kBlock - 1) / kBlock;
}

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad) return "fprop and dgrad only";
  if (auto reason = refuse_smooth(options); !reason.empty()) return reason;
  const Correlation task = correlation(p, pass);
  return refuse_band(task.axis, band_bytes(task, p.dtype));
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::blocked);
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  Blocked task{with_epilogue(correlation(p, pass), options), nullptr, 0, nullptr};
  const auto plan = std::make_shared<BandPlan>(task.problem.axis, band_bytes(task.problem, p.dtype));
  const Band& band = plan->band();
  const int64_t channels = task.problem.src_channels, blocks = (task.problem.dst_channels + kBlock - 1) / kBlock;
  task.band = &band;
  task.band_elements = band.elements / kBlock * channels;
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = p.n * p.groups * band.axis[0].out * band.bands;
  return {[task, plan, tasks, blocks, threads](const ConvArgs& args) {
            Blocked run = task;
            set_addresses(run.problem, args);
            run.packed = args.workspace;
            parallel_for(run.problem.groups * blocks, 4, threads, kernels().blocked_pack, &run);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().blocked, &run);
          },
          p.groups * blocks * band.taps_in_all * channels * kBlock * accumulator_size(p.dtype),
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", band.height, " rows")};
}

}  // namespace

Kernel<ConvProblem> blocked_entry() {
  return {"blocked", "dense and grouped, any stride and dilation; blocks of output channels, packed weights", refuse,
          cost, prepare};
}

}  // namespace fastconv::cpu
