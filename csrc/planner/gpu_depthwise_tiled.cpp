// The tiled depthwise kernels as the planner sees them.
#include "planner/gpu_conv.h"
#include "planner/gpu_depthwise_tile.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.c != p.groups) return concat("one input channel a group, here ", p.c_per_group());
  if (p.dtype == DType::f64) return "built for float32, float16 and bfloat16, not float64";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (p.n * p.k > largest_coordinate) return "more than 2^30 planes";
  if (pass == Pass::wgrad) return refuse_sums(p, options);
  const Images images = images_of(p, pass, options);
  return images.blocks > largest_grid ? "needs more than 2^31 - 1 blocks" : refuse_tiling(images.tiled, pass);
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return sums_cost(p, options);
  const Images images = images_of(p, pass, options);
  const Cost main = tiling_cost(images.tiled, pass, tiling_of(images.tiled, pass, options), options);
  return images.blocks > 0 ? main + images.cost : main;
}

struct DepthwiseTiledRun {
  ConvProblem problem;
  Pass pass;
  int device;
  DepthwiseTiling tiling;
  Images images;

  void operator()(const ConvArgs& given) const {
    const device::DeviceScope scope(device);
    const ConvArgs args = args_of_tiled(images, given);
    const int64_t word = tiling.vector * size_of(problem.dtype);
    DepthwiseTiledParams now = tiling.params;
    set_addresses(now.gather, args);
    set_copies(now.tile, now.channels_last, problem.dtype, args.a);
    now.gather.vector_stores =
        problem.k % tiling.vector == 0 && aligned(args.out, word) && aligned(args.residual, word);
    auto launch = one_dimensional(pass == Pass::dgrad ? "depthwise_tiled_dgrad" : "depthwise_tiled_fprop",
                                  tiling.blocks, depthwise_tile_threads, args.stream);
    launch.shared_bytes = size_t(tiling.shared_bytes);
    name_gather_regions(launch, images.tiled, images.tiled, pass, args);
    visit_dtype(problem.dtype, [&](auto t) {
      using T = decltype(t);
      if constexpr (!std::is_same_v<T, double>)
        launch_depthwise_tiled<T>(tiling.vector > 1, tiling.strip_taps, tiling.step, launch, now);
    });
    add_images(problem, images, given);
  }
};

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::wgrad) return prepare_sums(p, options);
  const Images images = images_of(p, pass, options);
  const DepthwiseTiling tiling = tiling_of(images.tiled, pass, options);
  const DepthwiseTile& t = tiling.params.tile;
  Prepared<ConvProblem> prepared;
  prepared.launch = DepthwiseTiledRun{p, pass, options.device, tiling, images};
  prepared.workspace_bytes = images.workspace_bytes;
  prepared.detail =
      concat("tile ", t.axis[0].tile, "x", t.axis[1].tile, "x", t.axis[2].tile, " of ", t.planes,
             p.layout == Layout::nhwc ? " samples and " : " planes, ",
             p.layout == Layout::nhwc ? concat(t.chunk, " channels, ") : "", "copies of ", t.copy_bytes,
             " bytes, grid ", tiling.blocks, ", ", tiling.shared_bytes, " bytes shared", images.describe());
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
