// The tiled depthwise kernels as the planner sees them.
#include "planner/gpu_conv.h"
#include "planner/gpu_depthwise_tile.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.c != p.groups || p.k != p.groups)
    return concat("one input and one output channel a group, here ", p.c_per_group(), " and ", p.k_per_group());
  if (pass == Pass::dgrad && p.pad_mode != PadMode::zeros)
    return concat("dgrad of padding by ", name_of(p.pad_mode), " adds what the padding received to the input");
  if (p.dtype == DType::f64) return "built for float32, float16 and bfloat16, not float64";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (p.n * p.c > largest_coordinate) return "more than 2^30 planes";
  return pass == Pass::wgrad ? refuse_sums(p, options) : refuse_tiling(p, pass);
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return sums_cost(p, options);
  return tiling_cost(p, pass, tiling_of(p, pass, options), options);
}

struct DepthwiseTiledRun {
  ConvProblem problem;
  Pass pass;
  int device;
  DepthwiseTiling tiling;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t word = tiling.vector * size_of(problem.dtype);
    DepthwiseTiledParams now = tiling.params;
    set_addresses(now.gather, args);
    set_copies(now.tile, now.channels_last, problem.dtype, args.a);
    now.gather.vector_stores =
        problem.c % tiling.vector == 0 && aligned(args.out, word) && aligned(args.residual, word);
    auto launch = one_dimensional(pass == Pass::dgrad ? "depthwise_tiled_dgrad" : "depthwise_tiled_fprop",
                                  tiling.blocks, depthwise_tile_threads, args.stream);
    launch.shared_bytes = size_t(tiling.shared_bytes);
    name_gather_regions(launch, problem, problem, pass, args);
    visit_dtype(problem.dtype, [&](auto t) {
      using T = decltype(t);
      if constexpr (!std::is_same_v<T, double>)
        launch_depthwise_tiled<T>(tiling.vector > 1, tiling.strip_taps, tiling.step, launch, now);
    });
  }
};

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_sums(p, options);
  const DepthwiseTiling tiling = tiling_of(p, pass, options);
  const DepthwiseTile& t = tiling.params.tile;
  Prepared<ConvProblem> prepared;
  prepared.launch = DepthwiseTiledRun{p, pass, options.device, tiling};
  prepared.detail = concat("tile ", t.axis[0].tile, "x", t.axis[1].tile, "x", t.axis[2].tile, " of ", t.planes,
                           p.layout == Layout::nhwc ? " samples and " : " planes, ",
                           p.layout == Layout::nhwc ? concat(t.chunk, " channels, ") : "", "copies of ", t.copy_bytes,
                           " bytes, grid ", tiling.blocks, ", ", tiling.shared_bytes, " bytes shared");
  return prepared;
}

}  // namespace

Kernel<ConvProblem> depthwise_tiled_entry() {
  return {"depthwise_tiled",
          "one channel a group: tiles in shared memory, strips of outputs in registers",
          refuse,
          cost,
          prepare,
          "depthwise_tiled",
          true};
}

}  // namespace fastconv::planner
