// The tensor-core implicit GEMM as the planner sees it: what it can address, what it costs, and its parameters.
#include <numeric>

#include "kernels/igemm_launch.h"
#include "planner/cost.h"
#include "planner/gpu_lowering.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr BlockTile block_of(const IgemmShape& shape) { return {shape.rows, shape.columns}; }

// How the operands are read.
enum class Reading : uint8_t { native, packed, columns, planes };

Lowering lowering_of(const ConvProblem& p, Pass pass, Reading reading) {
  if (reading == Reading::columns) return by_columns(p, pass);
  return reading == Reading::packed ? packed(p, pass) : as_given(p);
}

// 16-bit types are multiplied as they are.
Math products_in(const ConvProblem& p, const PlanOptions& options) {
  return p.dtype == DType::f32 ? options.math : Math::ieee;
}

int64_t stage_depth(const IgemmShape& shape, const ConvProblem& p) { return shape.depth_bytes / size_of(p.dtype); }
int64_t vector_of(const ConvProblem& p) { return 16 / size_of(p.dtype); }

// The widest copy that the channels of both operands allow: they are contiguous, and whole copies make them up. In
// fprop those are input channels only. By planes, of the filter: refuse_planes sees to it.
int copy_bytes(const ConvProblem& p, Pass pass, Reading reading, IgemmTile tile) {
  if (reading == Reading::planes) return tile == IgemmTile::narrow ? int(size_of(p.dtype)) : 16;
  for (int bytes : igemm_copy_bytes) {
    const int64_t elements = bytes / size_of(p.dtype);
    if (elements == 0 || p.c_per_group() % elements != 0) continue;
    if (pass == Pass::fprop || p.k_per_group() % elements == 0) return bytes;
  }
  return int(size_of(p.dtype));
}

// The 64x64 tile for copies of so many bytes and such products.
IgemmTile fitting(IgemmTile tile, int bytes, Math math) {
  return tile == IgemmTile::square && !has_copy<float>(tile, bytes, math) ? IgemmTile::narrow : tile;
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

// 32 bits count the bytes from one end of a window to the other and, in dgrad, those of a group's filter, and a stage
// beyond: of a row's depth, or of as many rows.
std::string refuse_reach(const ConvProblem& p, Pass pass) {
  constexpr int64_t most = int64_t(1) << 32, stage = 128;
  if (std::max(p.c, p.k) > largest_coordinate) return concat(std::max(p.c, p.k), " channels; at most 2^30");
  if (pass == Pass::wgrad) return "";
  const bool dgrad = pass == Pass::dgrad;
  const auto& extent = dgrad ? p.out : p.in;
  int64_t position = dgrad ? p.k : p.c, reach = position;
  for (int i = 2; i >= 0; --i) {
    reach += (p.filter[i] - 1) * p.dilation[i] * position;
    position *= extent[i];
  }
  if (reach * size_of(p.dtype) > most - stage)
    return concat("a window reaches over ", reach, " elements: more than 2^32 bytes");
  const int64_t filter = p.c_per_group() * volume(p.filter);
  if (dgrad && (p.k_per_group() + stage) * filter > most / size_of(p.dtype))
    return "a group's filter has more than 2^32 bytes";
  return "";
}

// Products in the longest sum of a pass: of the taps of a phase, those that meet the source at once.
int64_t products_of(const ConvProblem& p, Pass pass) {
  if (pass == Pass::wgrad) return p.n * volume(p.out);
  const bool dgrad = pass == Pass::dgrad;
  int64_t products = dgrad ? p.k_per_group() : p.c_per_group();
  for (int i = 0; i < 3; ++i) {
    const int64_t shared = dgrad ? std::gcd(p.stride[i], p.dilation[i]) : 1, modulus = dgrad ? p.stride[i] / shared : 1;
    const int64_t source = dgrad ? p.out[i] : p.in[i];
    products *= std::min(ceil_div(p.filter[i], modulus), ceil_div(source, p.dilation[i] / shared));
  }
  return products;
}

std::string refuse_products(const ConvProblem& p, Pass pass, const PlanOptions& options, IgemmTile tile) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.dtype == DType::f64) return "tensor cores of this kind have no float64";
  if (p.dtype == DType::f32 && options.math == Math::ieee) return "the precision asked for is ieee, not tf32 or tf32x3";
  if (p.dtype == DType::f32 && !has_math(tile, options.math))
    return concat("this tile has no registers for ", name_of(options.math));
  // A product errs more than float32's, a long sum less than a chain of them (tests/test_kernels_precision.py).
  const int64_t products = products_of(p, pass), least = pass == Pass::wgrad ? 256 : 128;
  if (p.dtype == DType::f32 && options.math == Math::tf32x3 && products < least)
    return concat("a sum of ", products, " products is more exact in float32 itself; tf32x3 from ", least);
  return "";
}

// Slices of wgrad, in what packing leaves of the workspace allowed.
Slices wgrad_slices(const Lowering& lowering, const IgemmShape& shape, PlanOptions options) {
  const ConvProblem& p = lowering.inner;
  if (options.workspace_limit >= 0)
    options.workspace_limit = std::max<int64_t>(0, options.workspace_limit - lowering.packed_bytes());
  const int64_t tiles = tiles_of(p, gemm_of(p, Pass::wgrad), block_of(shape));
  return slices_of(p, tiles, options, stage_depth(shape, p));
}

// Channels first, pointwise: by planes, four positions at a time, in all but the narrow tile.
std::string refuse_planes(const ConvProblem& p, Pass pass, IgemmTile tile) {
  if (p.layout != Layout::nchw) return "reads channels first";
  for (int i = 0; i < 3; ++i) {
    const bool padded = p.pad_lo[i] != 0 || p.pad_hi[i] != 0;
    if (p.filter[i] != 1 || padded || p.in[i] != p.out[i]) return "pointwise only: 1x1, stride 1, no padding";
  }
  if (volume(p.in) == 1) return "one position: channels last is the same";
  if (tile == IgemmTile::narrow) return "";
  if (volume(p.in) % 4 != 0) return concat(volume(p.in), " positions a plane, not a multiple of 4: the 64x64 tile");
  if (pass != Pass::wgrad && p.c_per_group() % vector_of(p) != 0)
    return concat(p.c_per_group(), " input channels a group, not a multiple of ", vector_of(p), ": the 64x64 tile");
  return "";
}

template <IgemmTile tile, Reading reading>
std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (auto reason = refuse_products(p, pass, options, tile); !reason.empty()) return reason;
  if (reading == Reading::native && p.layout != Layout::nhwc) return "reads channels last";
  if (reading == Reading::planes)
    if (auto reason = refuse_planes(p, pass, tile); !reason.empty()) return reason;
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (reading == Reading::columns && pass == Pass::dgrad)
    return "dgrad would add up columns that were rounded: computes fprop and wgrad only";
  const Lowering lowering = lowering_of(p, pass, reading);
  if (reading == Reading::packed && lowering.is_identity)
    return "nothing to pack: its operands can be read as they are";
  const ConvProblem& inner = lowering.inner;
  if (auto reason = refuse_size(inner); !reason.empty()) return reason;
  if (auto reason = refuse_taps(inner); !reason.empty()) return reason;
  if (auto reason = refuse_reach(inner, pass); !reason.empty()) return reason;
  const int bytes = copy_bytes(inner, pass, reading, tile);
  const Math math = products_in(p, options);
  if (!visit_dtype(p.dtype, [&](auto t) { return has_copy<decltype(t)>(fitting(tile, bytes, math), bytes, math); }))
    return concat(p.c_per_group(), " and ", p.k_per_group(), " channels a group allow copies of ", bytes,
                  " bytes: the 64x64 tile has them");
  const IgemmShape shape = shape_of(fitting(tile, bytes, math));
  const int64_t tiles = tiles_of(inner, gemm_of(inner, pass), block_of(shape));
  const int64_t slices = pass == Pass::wgrad ? wgrad_slices(lowering, shape, options).count : 1;
  if (tiles > largest_grid / slices) return concat("needs ", tiles, " tiles; a grid has at most 2^31 - 1");
  return refuse_packing(lowering);
}

// ---- cost ----

// Fractions of the tensor cores' peak that the main loops are expected to reach, by the copies' width.
double efficiency_of(const IgemmShape& shape, int bytes) {
  const double whole = shape.tile == IgemmTile::large ? 0.55 : shape.tile == IgemmTile::tall ? 0.45 : 0.40;
  return whole * (bytes == 16 ? 1 : bytes == 4 ? 0.35 : 0.15);
}

double tensor_peak(const ConvProblem& p, const PlanOptions& options) {
  if (p.dtype != DType::f32) return h100.tensor_flops;
  return h100.tensor_flops / (options.math == Math::tf32 ? 2 : 6);
}

template <IgemmTile tile, Reading reading>
Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const Lowering lowering = lowering_of(p, pass, reading);
  const ConvProblem& inner = lowering.inner;
  const int bytes = copy_bytes(inner, pass, reading, tile);
  const IgemmShape shape = shape_of(fitting(tile, bytes, products_in(p, options)));
  const int registers = igemm_registers(tile, pass, products_in(p, options), bytes < 16);
  const Cost gemm =
      gemm_cost(inner, pass, options, block_of(shape), stage_depth(shape, inner), efficiency_of(shape, bytes),
                tensor_peak(p, options), {shape.threads(), registers, shape.shared_bytes()});
  return gemm + packing_cost(lowering);
}

// ---- prepare ----

template <Math math>
using Products = std::integral_constant<Math, math>;

// Runs a pass with the addresses at hand; misaligned ones (a slice of a bigger buffer) are copied in what fits them.
struct Run {
  Lowering lowering;
  Reading reading = Reading::native;
  GatherParams gather{};
  WgradParams wgrad{};
  Pass pass = Pass::fprop;
  IgemmTile tile = IgemmTile::narrow;
  int bytes = 0;
  int64_t blocks = 0;
  PlanOptions options;

  Run(const Lowering& how, Reading read, Pass which, const PlanOptions& with, const Slices& slices, IgemmTile in);

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(options.device);
    const bool wide =
        (lowering.a.is_packed || aligned(args.a, bytes)) && (lowering.b.is_packed || aligned(args.b, bytes));
    const int fits = wide ? bytes : int(size_of(lowering.inner.dtype));
    // Only the narrow tile has these copies. Its blocks may be more, so the grid is made anew.
    if (fits != bytes && tile != IgemmTile::narrow) return at_any_address(args);
    const ConvArgs inner = pack(lowering, args);
    constexpr const char* names[] = {"igemm_fprop", "igemm_dgrad", "igemm_wgrad"};
    const IgemmShape shape = shape_of(tile);
    auto launch = one_dimensional(names[int(pass)], blocks, unsigned(shape.threads()), args.stream);
    launch.shared_bytes = size_t(shape.shared_bytes());
    pass == Pass::wgrad ? run_wgrad(launch, fits, inner) : run_gather(launch, fits, inner);
  }

 private:
  void at_any_address(const ConvArgs& args) const {
    const Slices slices{wgrad.slices ? wgrad.slices : 1, wgrad.slice_length};
    Run(lowering, reading, pass, options, slices, IgemmTile::narrow)(args);
  }

  void run_gather(device::Launch& launch, int fits, const ConvArgs& args) const {
    GatherParams now = gather;
    set_addresses(now, args);
    now.vector_stores =
        gather.vector_stores && aligned(args.out, 16) && aligned(args.bias, 16) && aligned(args.residual, 16);
    name_gather_regions(launch, lowering.inner, lowering.outer, pass, args);
    visit([&](auto t, auto products) {
      using T = decltype(t);
      constexpr Math math = decltype(products)::value;
      if (reading == Reading::planes) return launch_planes_gather<T, math>(tile, launch, now);
      launch_igemm_gather<T, math>(tile, fits, launch, now);
    });
  }

  void run_wgrad(device::Launch& launch, int fits, const ConvArgs& args) const {
    WgradParams now = wgrad;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    now.vector_stores = wgrad.vector_stores && aligned(now.out, 16);
    name_wgrad_regions(launch, lowering.inner, now.x, now.gy, now.out, now.partial ? now.slices : 0);
    visit([&](auto t, auto products) {
      using T = decltype(t);
      constexpr Math math = decltype(products)::value;
      if (reading == Reading::planes) return launch_planes_wgrad<T, math>(tile, launch, now);
      launch_igemm_wgrad<T, math>(tile, fits, launch, now);
    });
    if (lowering.unpacks) return unpack(lowering, args, now.slices);
    if (now.partial) sum_slices(lowering.inner.dtype, args, lowering.inner.w_elements(), now.slices);
  }

  template <class Visit>
  void visit(Visit&& with) const {
    const DType dtype = lowering.inner.dtype;
    if (dtype == DType::f16) return with(f16{}, Products<Math::ieee>{});
    if (dtype == DType::bf16) return with(bf16{}, Products<Math::ieee>{});
    options.math == Math::tf32 ? with(0.0f, Products<Math::tf32>{}) : with(0.0f, Products<Math::tf32x3>{});
  }
};

Run::Run(const Lowering& how, Reading read, Pass which, const PlanOptions& with, const Slices& slices, IgemmTile in)
    : lowering(how), reading(read), pass(which), options(with) {
  const ConvProblem& p = lowering.inner;
  bytes = copy_bytes(p, pass, reading, in), tile = fitting(in, bytes, products_in(p, options));
  const BlockTile block = block_of(shape_of(tile));
  blocks = tiles_of(p, gemm_of(p, pass), block) * slices.count;
  if (pass != Pass::wgrad) {
    gather = lowered_params(lowering, pass, options, block, vector_of(p));
    return;
  }
  const bool partial = slices.count > 1 || lowering.unpacks;
  wgrad = wgrad_params(p, block, slices, partial ? 4 : vector_of(p));
  wgrad.partial = partial, wgrad.rows = int(lowering.outer.k_per_group());
}

template <IgemmTile tile, Reading reading>
Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const Lowering lowering = lowering_of(p, pass, reading);
  const ConvProblem& inner = lowering.inner;
  const IgemmShape shape = shape_of(fitting(tile, copy_bytes(inner, pass, reading, tile), products_in(p, options)));
  const Gemm gemm = gemm_of(inner, pass);
  const Slices slices = pass == Pass::wgrad ? wgrad_slices(lowering, shape, options) : Slices{};
  const Run run(lowering, reading, pass, options, slices, tile);
  Prepared<ConvProblem> prepared;
  prepared.launch = run;
  prepared.workspace_bytes = lowering.packed_bytes();
  const int64_t four = 4 * size_of(p.dtype),
                copied = reading == Reading::planes ? std::min<int64_t>(four, run.bytes) : run.bytes;
  prepared.detail = concat("tile ", shape.rows, "x", shape.columns, "x", stage_depth(shape, p), ", ", shape.stages,
                           " stages, grid ", run.blocks, ", copies of ", copied, " bytes", lowering.describe());
  if (p.dtype == DType::f32) prepared.detail += concat(", ", name_of(options.math));
  if (gemm.phases > 1) prepared.detail += concat(", ", gemm.phases, " stride phases");
  if (slices.count > 1) prepared.detail += concat(", ", slices.count, " slices of ", slices.length, " positions");
  if (run.wgrad.partial) prepared.workspace_bytes += slices.count * inner.w_elements() * accumulator_bytes(p.dtype);
  return prepared;
}

template <IgemmTile tile, Reading reading>
Kernel<ConvProblem> entry(const char* name, const char* summary) {
  // Padded channels shift the sum's order: a family of its own.
  constexpr const char* families[] = {"igemm", "igemm_packed", "im2col", "igemm_planes"};
  return {name, summary, refuse<tile, reading>, cost<tile, reading>, prepare<tile, reading>, families[int(reading)]};
}

}  // namespace

std::vector<Kernel<ConvProblem>> igemm_entries() {
  constexpr auto native = Reading::native, packed = Reading::packed, planes = Reading::planes;
  return {
      entry<IgemmTile::large, native>("igemm_128x128", "implicit GEMM on tensor cores (mma.sync), 128x128 tile"),
      entry<IgemmTile::tall, native>("igemm_64x128", "the same, 64x128 tile: few output channels"),
      entry<IgemmTile::square, native>("igemm_64x64", "the same, 64x64 tile: small problems, odd channel counts"),
      entry<IgemmTile::large, packed>("igemm_packed_128x128",
                                      "operands packed first: channels first, odd channels, few channels a group"),
      entry<IgemmTile::tall, packed>("igemm_packed_64x128", "the same, 64x128 tile"),
      entry<IgemmTile::square, packed>("igemm_packed_64x64", "the same, 64x64 tile"),
      entry<IgemmTile::large, planes>("igemm_planes_128x128", "pointwise on channels first, read as they lie"),
      entry<IgemmTile::tall, planes>("igemm_planes_64x128", "the same, 64x128 tile"),
      entry<IgemmTile::narrow, planes>("igemm_planes_64x64", "the same, 64x64 tile, element by element: odd planes"),
      entry<IgemmTile::tall, Reading::columns>("im2col", "columns written out, then the 64x128 tile: a baseline"),
  };
}

}  // namespace fastconv::planner
