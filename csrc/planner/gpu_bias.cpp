// The bias gradient as the planner sees it.
#include "kernels/reduce_params.h"
#include "planner/cost.h"
#include "planner/gpu_conv.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

std::string refuse_bias(const ConvProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::bgrad) return concat("computes the bias gradient, not ", name_of(pass));
  if (p.n == 0) return "the tensors are empty: there is nothing to launch";
  if (p.k > largest_grid) return "more than 2^31 - 1 channels";
  return "";
}

BiasParams bias_params(const ConvProblem& p, const PlanOptions& options) {
  BiasParams params{};
  params.channels_last = p.layout == Layout::nhwc;
  params.channels = p.k, params.batch = p.n, params.positions = volume(p.out);
  const int64_t vector = 16 / size_of(p.dtype);
  params.vector_loads = !params.channels_last && params.positions % vector == 0;
  const int64_t total = p.n * params.positions / (params.vector_loads ? vector : 1);
  const int64_t blocks = params.channels_last ? ceil_div(p.k, 32) : p.k;
  // Enough slices to fill the chip, each with at least 16 rounds of the block.
  const int64_t round = params.channels_last ? reduce_threads / 32 : reduce_threads;
  const int64_t limit = options.workspace_limit >= 0 ? options.workspace_limit : int64_t(1) << 20;
  int64_t slices = std::min({ceil_div(4 * int64_t(h100.multiprocessors), blocks), ceil_div(total, 16 * round),
                             limit / (p.k * accumulator_bytes(p.dtype)), largest_grid / blocks});
  if (slices < 2) slices = 1;
  params.slice_length = ceil_div(total, slices);
  params.slices = int(ceil_div(total, params.slice_length));
  params.partial = params.slices > 1;
  return params;
}

double blocks_of(const ConvProblem& p, const BiasParams& params) {
  return double((params.channels_last ? ceil_div(p.k, 32) : p.k) * params.slices);
}

Cost cost_bias(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const double blocks = blocks_of(p, bias_params(p, options));
  return roofline(p.dtype, {blocks, 0, 1, p.bytes(pass), 0, 0, {reduce_threads, bias_sum.count, 0}});
}

struct BiasRun {
  BiasParams params;
  ConvProblem problem;
  int device;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    BiasParams now = params;
    now.gy = args.a, now.out = now.partial ? args.workspace : args.out;
    if (now.vector_loads && !aligned(args.a, 16)) {
      now.vector_loads = false;
      now.slice_length *= 16 / size_of(problem.dtype);  // the same slices, counted in elements
    }
    const int64_t element = size_of(problem.dtype);
    const int64_t blocks = (now.channels_last ? ceil_div(problem.k, 32) : problem.k) * now.slices;
    auto launch = one_dimensional("bias_sum", blocks, reduce_threads, args.stream);
    const int64_t out_bytes = problem.k * (now.partial ? now.slices * accumulator_bytes(problem.dtype) : element);
    name_regions(launch, {{args.a, element * problem.y_elements(), "gy"},
                          {now.out, out_bytes, now.partial ? "workspace" : "output"}});
    visit_dtype(problem.dtype, [&](auto t) { launch_bias<decltype(t)>(launch, now); });
    if (now.partial) sum_slices(problem.dtype, args, problem.k, now.slices);
  }
};

Prepared<ConvProblem> prepare_bias(const ConvProblem& p, Pass, const PlanOptions& options) {
  const BiasParams params = bias_params(p, options);
  Prepared<ConvProblem> prepared;
  prepared.launch = BiasRun{params, p, options.device};
  if (params.partial) prepared.workspace_bytes = params.slices * p.k * accumulator_bytes(p.dtype);
  prepared.detail = concat(params.slices, " slices");
  return prepared;
}

}  // namespace

Kernel<ConvProblem> bias_entry() {
  return {"bias_sum", "bias gradient: ordered two-stage reduction", refuse_bias, cost_bias, prepare_bias};
}

}  // namespace fastconv::planner
