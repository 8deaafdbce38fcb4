// The tensor-core implicit GEMM as the planner sees it: what it can address, what it costs, and its parameters.
#include "kernels/igemm_launch.h"
#include "planner/cost.h"
#include "planner/gpu_conv.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr BlockTile block_of(const IgemmShape& shape) { return {shape.rows, shape.columns}; }
int64_t stage_depth(const IgemmShape& shape, const ConvProblem& p) { return shape.depth_bytes / size_of(p.dtype); }
int64_t vector_of(const ConvProblem& p) { return 16 / size_of(p.dtype); }

// The widest copy that the channels of both operands allow: they are contiguous, and whole copies make them up.
int copy_bytes(const ConvProblem& p) {
  for (int bytes : igemm_copy_bytes) {
    const int64_t elements = bytes / size_of(p.dtype);
    if (elements > 0 && p.c_per_group() % elements == 0 && p.k_per_group() % elements == 0) return bytes;
  }
  return int(size_of(p.dtype));
}

// ---- refuse ----

std::string refuse_taps(const ConvProblem& p) {
  constexpr int most[] = {igemm_depth_taps, igemm_height_taps, igemm_width_taps};
  for (int i = 0; i < 3; ++i)
    if (p.filter[i] > most[i])
      return concat("spatial axis ", i - (3 - p.rank), " of the filter has ", p.filter[i], " taps; ", most[i],
                    " validity bits are kept");
  return "";
}

template <IgemmTile tile>
std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.dtype == DType::f64) return "tensor cores of this kind have no float64";
  if (p.dtype == DType::f32 && options.math == Math::ieee) return "the precision asked for is ieee, not tf32 or tf32x3";
  if (p.dtype == DType::f32 && !has_math(tile, options.math))
    return concat("this tile has no registers for ", name_of(options.math));
  if (p.layout != Layout::nhwc) return "reads channels last";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (pass != Pass::wgrad)
    if (auto reason = refuse_taps(p); !reason.empty()) return reason;
  const int bytes = copy_bytes(p);
  if (!visit_dtype(p.dtype, [&](auto t) { return has_copy<decltype(t)>(tile, bytes); }))
    return concat(p.c_per_group(), " and ", p.k_per_group(), " channels a group allow copies of ", bytes,
                  " bytes: the 64x64 tile has them");
  constexpr IgemmShape shape = shape_of(tile);
  const int64_t tiles = tiles_of(p, gemm_of(p, pass), block_of(shape));
  const int64_t slices = pass == Pass::wgrad ? slices_of(p, tiles, options, stage_depth(shape, p)).count : 1;
  if (tiles > largest_grid / slices) return concat("needs ", tiles, " tiles; a grid has at most 2^31 - 1");
  return "";
}

// ---- cost ----

// Fractions of the tensor cores' peak that the main loops are expected to reach, by the copies' width.
double efficiency_of(const IgemmShape& shape, int bytes) {
  const double whole = shape.tile == IgemmTile::large ? 0.55 : shape.tile == IgemmTile::tall ? 0.45 : 0.35;
  return whole * (bytes == 16 ? 1 : bytes == 4 ? 0.35 : 0.15);
}

double tensor_peak(const ConvProblem& p, const PlanOptions& options) {
  if (p.dtype != DType::f32) return h100.tensor_flops;
  return h100.tensor_flops / (options.math == Math::tf32 ? 2 : 6);
}

template <IgemmTile tile>
Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  constexpr IgemmShape shape = shape_of(tile);
  return gemm_cost(p, pass, options, block_of(shape), stage_depth(shape, p), efficiency_of(shape, copy_bytes(p)),
                   tensor_peak(p, options));
}

// ---- prepare ----

template <Math math>
using Products = std::integral_constant<Math, math>;

// Runs a pass with the addresses at hand; misaligned ones (a slice of a bigger buffer) are copied in what fits them.
struct Run {
  GatherParams gather;
  WgradParams wgrad;
  ConvProblem problem;
  Pass pass;
  IgemmTile tile;
  int bytes;
  int64_t blocks;
  int device;
  Math math;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const bool wide = aligned(args.a, bytes) && aligned(args.b, bytes);
    const int fits = wide ? bytes : int(size_of(problem.dtype));
    // Only the square tile has narrow copies. Its blocks are more, so the grid is made anew.
    if (fits != bytes && tile != IgemmTile::square) return at_any_address(args);
    constexpr const char* names[] = {"igemm_fprop", "igemm_dgrad", "igemm_wgrad"};
    const IgemmShape shape = shape_of(tile);
    auto launch = one_dimensional(names[int(pass)], blocks, unsigned(shape.threads()), args.stream);
    launch.shared_bytes = size_t(shape.shared_bytes());
    pass == Pass::wgrad ? run_wgrad(launch, fits, args) : run_gather(launch, fits, args);
  }

 private:
  void at_any_address(const ConvArgs& args) const;

  void run_gather(device::Launch& launch, int fits, const ConvArgs& args) const {
    GatherParams now = gather;
    now.source = args.a, now.filter = args.b, now.bias = args.bias, now.out = args.out;
    now.vector_stores = gather.vector_stores && aligned(args.out, 16) && aligned(args.bias, 16);
    name_gather_regions(launch, problem, pass, args);
    visit([&](auto t, auto products) {
      launch_igemm_gather<decltype(t), decltype(products)::value>(tile, fits, launch, now);
    });
  }

  void run_wgrad(device::Launch& launch, int fits, const ConvArgs& args) const {
    WgradParams now = wgrad;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    now.vector_stores = wgrad.vector_stores && aligned(now.out, 16);
    name_wgrad_regions(launch, problem, now);
    visit([&](auto t, auto products) {
      launch_igemm_wgrad<decltype(t), decltype(products)::value>(tile, fits, launch, now);
    });
    if (now.partial) sum_slices(problem.dtype, args, problem.w_elements(), now.slices);
  }

  template <class Visit>
  void visit(Visit&& with) const {
    if (problem.dtype == DType::f16) return with(f16{}, Products<Math::ieee>{});
    if (problem.dtype == DType::bf16) return with(bf16{}, Products<Math::ieee>{});
    math == Math::tf32 ? with(0.0f, Products<Math::tf32>{}) : with(0.0f, Products<Math::tf32x3>{});
  }
};

Run run_of(const ConvProblem& p, Pass pass, const PlanOptions& options, const Slices& slices, IgemmTile tile) {
  const BlockTile block = block_of(shape_of(tile));
  Run run{{},
          {},
          p,
          pass,
          tile,
          copy_bytes(p),
          tiles_of(p, gemm_of(p, pass), block) * slices.count,
          options.device,
          options.math};
  if (pass == Pass::wgrad) {
    run.wgrad = wgrad_params(p, block, slices, slices.count > 1 ? 4 : vector_of(p));
  } else {
    run.gather = gather_params(p, pass, block, vector_of(p));
  }
  return run;
}

void Run::at_any_address(const ConvArgs& args) const {
  const Slices slices{wgrad.slices ? wgrad.slices : 1, wgrad.slice_length};
  PlanOptions options;
  options.device = device, options.math = math;
  run_of(problem, pass, options, slices, IgemmTile::square)(args);
}

template <IgemmTile tile>
Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  constexpr IgemmShape shape = shape_of(tile);
  const Gemm gemm = gemm_of(p, pass);
  Slices slices;
  if (pass == Pass::wgrad) slices = slices_of(p, tiles_of(p, gemm, block_of(shape)), options, stage_depth(shape, p));
  const Run run = run_of(p, pass, options, slices, tile);
  Prepared<ConvProblem> prepared;
  prepared.launch = run;
  prepared.detail = concat("tile ", shape.rows, "x", shape.columns, "x", stage_depth(shape, p), ", ", shape.stages,
                           " stages, grid ", run.blocks, ", copies of ", run.bytes, " bytes");
  if (p.dtype == DType::f32) prepared.detail += concat(", ", name_of(options.math));
  if (gemm.phases > 1) prepared.detail += concat(", ", gemm.phases, " stride phases");
  if (slices.count > 1) {
    prepared.workspace_bytes = slices.count * p.w_elements() * accumulator_bytes(p.dtype);
    prepared.detail += concat(", ", slices.count, " slices of ", slices.length, " positions");
  }
  return prepared;
}

constexpr const char* family = "igemm";

template <IgemmTile tile>
Kernel<ConvProblem> entry(const char* name, const char* summary) {
  return {name, summary, refuse<tile>, cost<tile>, prepare<tile>, family};
}

}  // namespace

std::vector<Kernel<ConvProblem>> igemm_entries() {
  return {
      entry<IgemmTile::large>("igemm_128x128", "implicit GEMM on tensor cores (mma.sync), 128x128 tile"),
      entry<IgemmTile::tall>("igemm_64x128", "the same, 64x128 tile: few output channels"),
      entry<IgemmTile::square>("igemm_64x64", "the same, 64x64 tile: small problems, odd channel counts"),
  };
}

}  // namespace fastconv::planner
