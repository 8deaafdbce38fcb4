// The depthwise kernels as the planner sees them.
#include "kernels/depthwise_params.h"
#include "planner/cost.h"
#include "planner/gpu_conv.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr int64_t shared_limit = 48 * 1024;
constexpr int positions_a_thread = 8;  // share one staging of the filters

bool is_last(const ConvProblem& p) { return p.layout == Layout::nhwc; }
int64_t taps_of(const ConvProblem& p) { return volume(p.filter); }

// How a block's threads are laid over channels and positions.
struct Shape {
  int64_t vector = 1, lanes = 0, channel_blocks = 1, positions = 0, blocks = 0, shared_bytes = 0;
};

Shape layout_of(const ConvProblem& p, Pass pass, bool vectors) {
  Shape l;
  const int64_t positions = p.n * volume(pass == Pass::dgrad ? p.in : p.out);
  if (!is_last(p)) {
    l.positions = depthwise_threads * positions_a_thread;
    l.blocks = ceil_div(p.c * positions, l.positions);
    return l;
  }
  l.vector = vectors ? vector_elements(p.dtype) : 1;
  const int64_t lane_bytes = taps_of(p) * l.vector * accumulator_bytes(p.dtype);
  l.lanes = std::max<int64_t>(1, std::min({int64_t(32), p.c / l.vector, shared_limit / lane_bytes - 1}));
  l.channel_blocks = ceil_div(p.c, l.lanes * l.vector);
  l.positions = depthwise_threads / l.lanes * positions_a_thread;
  l.blocks = l.channel_blocks * ceil_div(positions, l.positions);
  l.shared_bytes = (l.lanes + 1) * lane_bytes;
  return l;
}

bool wants_vectors(const ConvProblem& p) { return is_last(p) && p.c % vector_elements(p.dtype) == 0; }

int64_t wgrad_tiles(const ConvProblem& p) {
  return (is_last(p) ? ceil_div(p.c, 32) : p.c) * ceil_div(taps_of(p), depthwise_taps);
}

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.c != p.groups || p.k != p.groups)
    return concat("one input and one output channel a group, here ", p.c_per_group(), " and ", p.k_per_group());
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (pass == Pass::wgrad) {
    const Slices slices = slices_of(p, wgrad_tiles(p), options);
    return slices.count > largest_grid / wgrad_tiles(p) ? "needs more than 2^31 - 1 blocks" : "";
  }
  if (p.n * p.c > largest_coordinate) return "more than 2^30 planes";
  const Shape layout = layout_of(p, pass, wants_vectors(p));
  if (layout.shared_bytes > shared_limit)
    return concat("the filters of its channels take ", layout.shared_bytes, " bytes of shared memory, of ",
                  shared_limit);
  return layout_of(p, pass, false).blocks > largest_grid ? "needs more than 2^31 - 1 blocks" : "";
}

// Some ten instructions for every multiply-add: coordinates, predicates, addresses. dgrad asks every tap of every
// result, whether they meet or not.
Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  constexpr double efficiency = 0.1;
  const double reads = pass == Pass::wgrad ? double(ceil_div(taps_of(p), depthwise_taps)) : 1;
  const double blocks = h100.multiprocessors;
  const double flops = pass == Pass::dgrad ? 2.0 * double(p.x_elements() * taps_of(p)) : p.flops(pass);
  Cost main = roofline(p.dtype, {blocks, flops / blocks, efficiency, traffic(p, pass, options) * reads});
  const int64_t slices = pass == Pass::wgrad ? slices_of(p, wgrad_tiles(p), options).count : 1;
  const Shape layout = pass == Pass::wgrad ? Shape{} : layout_of(p, pass, wants_vectors(p));
  set_occupancy(
      main, double(pass == Pass::wgrad ? wgrad_tiles(p) * slices : layout.blocks),
      {depthwise_threads, (pass == Pass::wgrad ? depthwise_wgrad : depthwise_gather).count, int(layout.shared_bytes)});
  if (slices == 1) return main;
  return main + roofline(p.dtype, {1, 0, 1, double(p.w_elements() * 8)});
}

struct DepthwiseRun {
  ConvProblem problem;
  Pass pass;
  int device;
  DepthwiseParams by_vector, by_element;

  static DepthwiseParams params_of(const ConvProblem& p, Pass pass, const PlanOptions& options, bool vectors) {
    const bool transposed = pass == Pass::dgrad;
    const Shape layout = layout_of(p, pass, vectors);
    DepthwiseParams params{};
    GatherParams& g = params.gather;
    g.transposed = transposed, g.rows = g.channels = 1, g.groups = int(p.groups), g.batch = p.n;
    set_strides(g, p, transposed), set_epilogue(g, options);
    for (int i = 0; i < 3; ++i) {
      g.axis[i] = axis_of(p, i, transposed);
      params.by_stride[i] = Divisor(g.axis[i].stride);
    }
    params.by_channels = Divisor(p.c), params.by_taps = Divisor(taps_of(p));
    params.positions_a_thread = positions_a_thread;
    params.lanes = int(std::max<int64_t>(1, layout.lanes)), params.channel_blocks = int(layout.channel_blocks);
    params.by_lanes = Divisor(params.lanes);
    return params;
  }

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t element = size_of(problem.dtype), bytes = vector_elements(problem.dtype) * element;
    const bool vectors =
        wants_vectors(problem) && aligned(args.a, bytes) && aligned(args.out, bytes) && aligned(args.residual, bytes);
    DepthwiseParams now = vectors ? by_vector : by_element;
    set_addresses(now.gather, args);
    const Shape layout = layout_of(problem, pass, vectors);
    const bool dgrad = pass == Pass::dgrad;
    auto launch =
        one_dimensional(dgrad ? "depthwise_dgrad" : "depthwise_fprop", layout.blocks, depthwise_threads, args.stream);
    launch.shared_bytes = size_t(layout.shared_bytes);
    name_regions(launch, {{args.a, element * (dgrad ? problem.y_elements() : problem.x_elements()), dgrad ? "gy" : "x"},
                          {args.b, element * problem.w_elements(), "weight"},
                          {args.bias, element * (dgrad ? problem.c : problem.k), "bias"},
                          {args.residual, element * problem.y_elements(), "residual"},
                          {args.out, element * (dgrad ? problem.x_elements() : problem.y_elements()), "output"}});
    visit_dtype(problem.dtype, [&](auto t) { launch_depthwise<decltype(t)>(is_last(problem), vectors, launch, now); });
  }
};

struct DepthwiseWgradRun {
  ConvProblem problem;
  int device;
  int64_t blocks;
  WgradParams params;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t element = size_of(problem.dtype);
    WgradParams now = params;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    auto launch = one_dimensional("depthwise_wgrad", blocks, depthwise_threads, args.stream);
    const int64_t out_bytes =
        problem.w_elements() * (now.partial ? now.slices * accumulator_bytes(problem.dtype) : element);
    name_regions(launch, {{args.a, element * problem.x_elements(), "x"},
                          {args.b, element * problem.y_elements(), "gy"},
                          {now.out, out_bytes, now.partial ? "workspace" : "output"}});
    visit_dtype(problem.dtype, [&](auto t) { launch_depthwise_wgrad<decltype(t)>(is_last(problem), launch, now); });
    if (now.partial) sum_slices(problem.dtype, args, problem.w_elements(), now.slices);
  }
};

Prepared<ConvProblem> prepare_wgrad(const ConvProblem& p, const PlanOptions& options) {
  const Slices slices = slices_of(p, wgrad_tiles(p), options);
  WgradParams params{};
  params.partial = slices.count > 1;
  params.rows = params.channels = 1, params.columns = int(taps_of(p));
  params.groups = int(p.groups), params.batch = p.n;
  params.row_tiles = int(is_last(p) ? ceil_div(p.c, 32) : p.c);
  params.column_tiles = int(ceil_div(taps_of(p), depthwise_taps));
  params.slices = int(slices.count), params.slice_length = slices.length;
  for (int i = 0; i < 3; ++i) params.axis[i] = axis_of(p, i, false);
  params.x_strides = strides_of(p.layout, p.c, p.groups, p.in);
  params.gy_strides = strides_of(p.layout, p.k, p.groups, p.out);
  const int64_t blocks = wgrad_tiles(p) * slices.count;
  Prepared<ConvProblem> prepared;
  prepared.launch = DepthwiseWgradRun{p, options.device, blocks, params};
  if (params.partial) prepared.workspace_bytes = slices.count * p.w_elements() * accumulator_bytes(p.dtype);
  prepared.detail = concat("grid ", blocks, ", ", slices.count, " slices of ", slices.length, " positions");
  return prepared;
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_wgrad(p, options);
  const bool vectors = wants_vectors(p);
  Prepared<ConvProblem> prepared;
  prepared.launch = DepthwiseRun{p, pass, options.device, DepthwiseRun::params_of(p, pass, options, vectors),
                                 DepthwiseRun::params_of(p, pass, options, false)};
  prepared.detail = concat("grid ", layout_of(p, pass, vectors).blocks, ", ",
                           !is_last(p) ? "lanes along pixels"
                           : vectors   ? "channel vectors"
                                       : "lanes along channels");
  return prepared;
}

}  // namespace

Kernel<ConvProblem> depthwise_entry() {
  return {"depthwise", "one channel a group: a thread a result, no GEMM", refuse, cost, prepare, "depthwise"};
}

}  // namespace fastconv::planner
