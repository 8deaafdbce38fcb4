// The direct convolution kernels as the planner sees them: which problems they can address, what they cost, and their
// parameters.
#include "kernels/direct_launch.h"
#include "planner/gpu_conv.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr TileShape shape_of(DirectTile tile) {
  for (const TileShape& shape : direct_tiles)
    if (shape.tile == tile) return shape;
  return direct_tiles[0];
}
constexpr BlockTile block_of(DirectTile tile) { return {shape_of(tile).rows, shape_of(tile).columns}; }

// ---- refuse ----

template <DirectTile tile>
std::string refuse_direct(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (!visit_dtype(p.dtype, [](auto t) { return has_tile<decltype(t)>(tile); }))
    return concat("this tile is built for float32, not ", name_of(p.dtype));
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  const int64_t tiles = tiles_of(p, gemm_of(p, pass), block_of(tile));
  const int64_t slices = pass == Pass::wgrad ? slices_of(p, tiles, options).count : 1;
  if (tiles > largest_grid / slices) return concat("needs ", tiles, " tiles; a grid has at most 2^31 - 1");
  if (pass == Pass::wgrad && slices_of(p, tiles, options).length > largest_coordinate)
    return "one slice would sum more than 2^30 positions: allow more workspace";
  return "";
}

// ---- cost ----

Access access_of(const ConvProblem& p, Pass pass) {
  if (p.layout == Layout::nchw) return Access::nchw;
  const int64_t v = vector_elements(p.dtype);
  const bool source = (pass == Pass::dgrad ? p.k_per_group() : p.c_per_group()) % v == 0;
  const bool other = (pass == Pass::wgrad ? p.k_per_group() : p.c_per_group()) % v == 0;
  return source && other ? Access::nhwc_vector : Access::nhwc;
}

// Fractions of an SM's peak that the main loops are expected to reach (instruction counts of the inner loop).
constexpr double efficiency_of(DirectTile tile) {
  return tile == DirectTile::large ? 0.7 : tile == DirectTile::square ? 0.45 : 0.3;
}

template <DirectTile tile>
Cost cost_direct(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  // Two stages of both operands.
  const int shared =
      int(2 * direct_depth * accumulator_bytes(p.dtype)) * (shape_of(tile).rows + shape_of(tile).columns);
  return gemm_cost(p, pass, options, block_of(tile), direct_depth, efficiency_of(tile), 0,
                   {direct_threads, direct_registers(tile, access_of(p, pass), pass, p.dtype), shared});
}

// ---- prepare ----

// Runs fprop or dgrad with the addresses at hand; misaligned ones (a slice of a bigger buffer) are walked by elements.
struct GatherRun {
  GatherParams params;
  ConvProblem problem;
  Pass pass;
  DirectTile tile;
  Access walk;
  int64_t blocks;
  int device;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t bytes = vector_elements(problem.dtype) * size_of(problem.dtype);
    GatherParams now = params;
    set_addresses(now, args);
    now.vector_stores = params.vector_stores && aligned(args.out, bytes) && aligned(args.residual, bytes);
    const bool vectors = walk == Access::nhwc_vector && aligned(args.a, bytes) && aligned(args.b, bytes);
    const Access access = walk == Access::nhwc_vector && !vectors ? Access::nhwc : walk;
    const bool dgrad = pass == Pass::dgrad;
    const bool along_rows = dgrad && (vectors || (walk == Access::nchw && volume(problem.filter) == 1));
    auto launch = one_dimensional(dgrad ? "direct_dgrad" : "direct_fprop", blocks, direct_threads, args.stream);
    name_gather_regions(launch, problem, problem, pass, args);
    visit_dtype(problem.dtype, [&](auto t) { launch_gather<decltype(t)>(tile, access, along_rows, launch, now); });
  }
};

struct WgradRun {
  WgradParams params;
  ConvProblem problem;
  DirectTile tile;
  Access walk;
  int64_t blocks;
  int device;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t bytes = vector_elements(problem.dtype) * size_of(problem.dtype);
    WgradParams now = params;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    now.vector_stores = params.vector_stores && aligned(now.out, 16);
    const bool vectors = walk == Access::nhwc_vector && aligned(args.a, bytes) && aligned(args.b, bytes);
    const Access access = walk == Access::nhwc_vector && !vectors ? Access::nhwc : walk;
    auto launch = one_dimensional("direct_wgrad", blocks, direct_threads, args.stream);
    name_wgrad_regions(launch, problem, now.x, now.gy, now.out, now.partial ? now.slices : 0);
    visit_dtype(problem.dtype, [&](auto t) { launch_wgrad<decltype(t)>(tile, access, launch, now); });
    if (now.partial) sum_slices(problem.dtype, args, problem.w_elements(), now.slices);
  }
};

const char* walk_name(Access walk) {
  return walk == Access::nchw   ? "lanes along pixels"
         : walk == Access::nhwc ? "lanes along channels"
                                : "channel vectors";
}

template <DirectTile tile>
Prepared<ConvProblem> prepare_direct(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  constexpr TileShape shape = shape_of(tile);
  const Gemm gemm = gemm_of(p, pass);
  const Access walk = access_of(p, pass);
  int64_t blocks = tiles_of(p, gemm, block_of(tile));
  Prepared<ConvProblem> prepared;
  std::string more = gemm.phases > 1 ? concat(", ", gemm.phases, " stride phases") : "";
  if (pass == Pass::wgrad) {
    const Slices slices = slices_of(p, blocks, options);
    blocks *= slices.count;
    if (slices.count > 1) {
      prepared.workspace_bytes = slices.count * p.w_elements() * accumulator_bytes(p.dtype);
      more = concat(", ", slices.count, " slices of ", slices.length, " positions");
    }
    prepared.launch = WgradRun{
        wgrad_params(p, block_of(tile), slices, vector_elements(p.dtype)), p, tile, walk, blocks, options.device};
  } else {
    prepared.launch = GatherRun{gather_params(p, pass, options, block_of(tile), vector_elements(p.dtype)),
                                p,
                                pass,
                                tile,
                                walk,
                                blocks,
                                options.device};
  }
  prepared.detail = concat("tile ", shape.rows, "x", shape.columns, "x", direct_depth, ", grid ", blocks, ", ",
                           walk_name(walk), more);
  return prepared;
}

constexpr const char* family = "direct";

template <DirectTile tile>
Kernel<ConvProblem> direct_entry(const char* name, const char* summary) {
  return {name, summary, refuse_direct<tile>, cost_direct<tile>, prepare_direct<tile>, family};
}

}  // namespace

std::vector<Kernel<ConvProblem>> direct_entries() {
  return {direct_entry<DirectTile::square>("direct_64x64", "implicit GEMM on CUDA cores, 64x64 tile: any problem"),
          direct_entry<DirectTile::flat>("direct_16x128", "the same, 16x128 tile: few output channels or small groups"),
          direct_entry<DirectTile::large>("direct_128x64", "the same, 128x64 tile: float32, many channels")};
}

}  // namespace fastconv::planner
