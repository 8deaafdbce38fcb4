// The direct convolution kernels as the planner sees them: which problems they can address, what they cost, and their
// parameters.
#include "planner/gpu_conv.h"

#include <numeric>

#include "kernels/direct_launch.h"
#include "kernels/reduce_params.h"
#include "planner/cost.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr TileShape shape_of(DirectTile tile) {
  for (const TileShape& shape : direct_tiles)
    if (shape.tile == tile) return shape;
  return direct_tiles[0];
}

int64_t inverse_modulo(int64_t a, int64_t modulus) {
  int64_t r0 = modulus, r1 = a % modulus, t0 = 0, t1 = 1;
  while (r1 != 0) {
    const int64_t q = r0 / r1;
    std::tie(r0, r1) = std::pair(r1, r0 - q * r1);
    std::tie(t0, t1) = std::pair(t1, t0 - q * t1);
  }
  return modulus == 1 ? 0 : (t0 % modulus + modulus) % modulus;
}

// The implicit GEMM of a pass, per group: rows x columns, summed over depth; columns and depth of the longest phase.
struct Gemm {
  int64_t rows = 0, columns = 0, depth = 0, phases = 1;
};

Gemm gemm_of(const ConvProblem& p, Pass pass) {
  const int64_t taps = volume(p.filter);
  if (pass == Pass::wgrad) return {p.k_per_group(), p.c_per_group() * taps, p.n * volume(p.out), 1};
  if (pass == Pass::fprop) return {p.k_per_group(), p.n * volume(p.out), p.c_per_group() * taps, 1};
  Gemm gemm{p.c_per_group(), p.n, p.k_per_group(), 1};
  for (int i = 0; i < 3; ++i) {
    const DirectAxis axis = axis_of(p, i, true);
    gemm.phases *= axis.phases;
    gemm.columns *= ceil_div(p.in[i], axis.stride);
    gemm.depth *= ceil_div(axis.taps, axis.modulus);
  }
  return gemm;
}

int64_t tiles_of(const ConvProblem& p, const Gemm& gemm, const TileShape& tile) {
  return gemm.phases * p.groups * ceil_div(gemm.rows, tile.rows) * ceil_div(gemm.columns, tile.columns);
}

// ---- refuse ----

template <DirectTile tile>
std::string refuse_direct(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (!visit_dtype(p.dtype, [](auto t) { return has_tile<decltype(t)>(tile); }))
    return concat("this tile is built for float32, not ", name_of(p.dtype));
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  const int64_t tiles = tiles_of(p, gemm_of(p, pass), shape_of(tile));
  const int64_t slices = pass == Pass::wgrad ? slices_of(p, tiles, options).count : 1;
  if (tiles > largest_grid / slices) return concat("needs ", tiles, " tiles; a grid has at most 2^31 - 1");
  if (pass == Pass::wgrad && slices_of(p, tiles, options).length > largest_coordinate)
    return "one slice would sum more than 2^30 positions: allow more workspace";
  return "";
}

// ---- cost ----

// Fractions of an SM's peak that the main loops are expected to reach (instruction counts of the inner loop).
constexpr double efficiency_of(DirectTile tile) {
  return tile == DirectTile::large ? 0.7 : tile == DirectTile::square ? 0.45 : 0.3;
}

template <DirectTile tile>
Cost cost_direct(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  constexpr TileShape shape = shape_of(tile);
  const Gemm gemm = gemm_of(p, pass);
  const double tiles = double(tiles_of(p, gemm, shape));
  Work work{tiles, 2.0 * shape.rows * shape.columns * double(ceil_div(gemm.depth, direct_depth) * direct_depth),
            efficiency_of(tile), p.bytes(pass)};
  // The gathered source is read once a row tile; from L2 while it fits there.
  const double source = double((pass == Pass::dgrad ? p.y_elements() : p.x_elements()) * size_of(p.dtype));
  if (source > h100.l2_bytes) work.bytes += source * double(ceil_div(gemm.rows, shape.rows) - 1);
  if (pass != Pass::wgrad) return roofline(p.dtype, work);
  const Slices slices = slices_of(p, int64_t(tiles), options);
  work.blocks *= double(slices.count), work.block_flops /= double(slices.count);
  if (slices.count == 1) return roofline(p.dtype, work);
  const double partial = double(slices.count * p.w_elements() * accumulator_bytes(p.dtype));
  work.bytes += partial;
  return roofline(p.dtype, work) + roofline(p.dtype, {1, 0, 1, partial + double(p.w_elements() * size_of(p.dtype))});
}

// ---- prepare ----

Access access_of(const ConvProblem& p, Pass pass) {
  if (p.layout == Layout::nchw) return Access::nchw;
  const int64_t v = vector_elements(p.dtype);
  const bool source = (pass == Pass::dgrad ? p.k_per_group() : p.c_per_group()) % v == 0;
  const bool other = (pass == Pass::wgrad ? p.k_per_group() : p.c_per_group()) % v == 0;
  return source && other ? Access::nhwc_vector : Access::nhwc;
}

GatherParams gather_params(const ConvProblem& p, Pass pass, const TileShape& tile) {
  const bool transposed = pass == Pass::dgrad, last = p.layout == Layout::nhwc;
  const Gemm gemm = gemm_of(p, pass);
  GatherParams params{};
  params.transposed = transposed;
  params.rows = int(gemm.rows);
  params.channels = int(transposed ? p.k_per_group() : p.c_per_group());
  params.groups = int(p.groups), params.batch = p.n;
  params.row_tiles = int(ceil_div(gemm.rows, tile.rows));
  params.column_tiles = int(ceil_div(gemm.columns, tile.columns));
  for (int i = 0; i < 3; ++i) params.axis[i] = axis_of(p, i, transposed);
  set_strides(params, p, transposed);
  const int64_t out_plane = transposed ? volume(p.in) : volume(p.out);
  const int64_t contiguous = last ? gemm.rows : gemm.phases == 1 ? out_plane : 1;
  params.vector_stores = contiguous % vector_elements(p.dtype) == 0;
  return params;
}

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
    const int64_t bytes = vector_elements(problem.dtype) * size_of(problem.dtype), element = size_of(problem.dtype);
    GatherParams now = params;
    now.source = args.a, now.filter = args.b, now.bias = args.bias, now.out = args.out;
    now.vector_stores = params.vector_stores && aligned(args.out, bytes);
    const bool vectors = walk == Access::nhwc_vector && aligned(args.a, bytes) && aligned(args.b, bytes);
    const Access access = walk == Access::nhwc_vector && !vectors ? Access::nhwc : walk;
    const bool dgrad = pass == Pass::dgrad;
    const bool along_rows = dgrad && (vectors || (walk == Access::nchw && volume(problem.filter) == 1));
    auto launch = one_dimensional(dgrad ? "direct_dgrad" : "direct_fprop", blocks, direct_threads, args.stream);
    name_regions(launch, {{args.a, element * (dgrad ? problem.y_elements() : problem.x_elements()), dgrad ? "gy" : "x"},
                          {args.b, element * problem.w_elements(), "weight"},
                          {args.bias, element * problem.k, "bias"},
                          {args.out, element * (dgrad ? problem.x_elements() : problem.y_elements()), "output"}});
    visit_dtype(problem.dtype, [&](auto t) { launch_gather<decltype(t)>(tile, access, along_rows, launch, now); });
  }
};

WgradParams wgrad_params(const ConvProblem& p, const TileShape& tile, const Slices& slices) {
  const Gemm gemm = gemm_of(p, Pass::wgrad);
  WgradParams params{};
  params.partial = slices.count > 1;
  params.rows = int(gemm.rows), params.columns = int(gemm.columns);
  params.channels = int(p.c_per_group()), params.groups = int(p.groups), params.batch = p.n;
  params.row_tiles = int(ceil_div(gemm.rows, tile.rows));
  params.column_tiles = int(ceil_div(gemm.columns, tile.columns));
  params.slices = int(slices.count), params.slice_length = slices.length;
  for (int i = 0; i < 3; ++i) params.axis[i] = axis_of(p, i, false);
  params.x_strides = strides_of(p.layout, p.c, p.groups, p.in);
  params.gy_strides = strides_of(p.layout, p.k, p.groups, p.out);
  params.vector_stores = gemm.columns % vector_elements(p.dtype) == 0;
  return params;
}

struct WgradRun {
  WgradParams params;
  ConvProblem problem;
  DirectTile tile;
  Access walk;
  int64_t blocks;
  int device;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    const int64_t element = size_of(problem.dtype), bytes = vector_elements(problem.dtype) * element;
    WgradParams now = params;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    now.vector_stores = params.vector_stores && aligned(now.out, 16);
    const bool vectors = walk == Access::nhwc_vector && aligned(args.a, bytes) && aligned(args.b, bytes);
    const Access access = walk == Access::nhwc_vector && !vectors ? Access::nhwc : walk;
    auto launch = one_dimensional("direct_wgrad", blocks, direct_threads, args.stream);
    const int64_t out_bytes =
        problem.w_elements() * (now.partial ? now.slices * accumulator_bytes(problem.dtype) : element);
    name_regions(launch, {{args.a, element * problem.x_elements(), "x"},
                          {args.b, element * problem.y_elements(), "gy"},
                          {now.out, out_bytes, now.partial ? "workspace" : "output"}});
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
  int64_t blocks = tiles_of(p, gemm, shape);
  Prepared<ConvProblem> prepared;
  std::string more = gemm.phases > 1 ? concat(", ", gemm.phases, " stride phases") : "";
  if (pass == Pass::wgrad) {
    const Slices slices = slices_of(p, blocks, options);
    blocks *= slices.count;
    if (slices.count > 1) {
      prepared.workspace_bytes = slices.count * p.w_elements() * accumulator_bytes(p.dtype);
      more = concat(", ", slices.count, " slices of ", slices.length, " positions");
    }
    prepared.launch = WgradRun{wgrad_params(p, shape, slices), p, tile, walk, blocks, options.device};
  } else {
    prepared.launch = GatherRun{gather_params(p, pass, shape), p, pass, tile, walk, blocks, options.device};
  }
  prepared.detail = concat("tile ", shape.rows, "x", shape.columns, "x", direct_depth, ", grid ", blocks, ", ",
                           walk_name(walk), more);
  return prepared;
}

// ---- bias gradient ----

std::string refuse_bias(const ConvProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::bgrad) return concat("computes the bias gradient, not ", name_of(pass));
  if (p.n == 0) return "the tensors are empty: there is nothing to launch";
  if (p.k > largest_grid) return "more than 2^31 - 1 channels";
  return "";
}

Cost cost_bias(const ConvProblem& p, Pass pass, const PlanOptions&) {
  return roofline(p.dtype, {1, 0, 1, p.bytes(pass)});
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

template <DirectTile tile>
Kernel<ConvProblem> direct_entry(const char* name, const char* summary) {
  return {name, summary, refuse_direct<tile>, cost_direct<tile>, prepare_direct<tile>};
}

}  // namespace

DirectAxis axis_of(const ConvProblem& p, int i, bool transposed) {
  const int64_t stride = p.out[i] == 1 ? std::min(p.stride[i], largest_coordinate) : p.stride[i];
  const int64_t dilation = p.filter[i] == 1 ? 1 : p.dilation[i];
  DirectAxis axis{};
  axis.source_extent = int(transposed ? p.out[i] : p.in[i]);
  axis.out_extent = int(transposed ? p.in[i] : p.out[i]);
  axis.taps = int(p.filter[i]);
  axis.stride = int(stride), axis.pad = int(p.pad_lo[i]), axis.dilation = int(dilation);
  axis.gcd = int(std::gcd(stride, dilation));
  axis.modulus = axis.stride / axis.gcd;
  axis.inverse = int(inverse_modulo(dilation / axis.gcd, axis.modulus));
  axis.phases = transposed ? int(std::min<int64_t>(stride, p.in[i])) : 1;
  return axis;
}

Slices slices_of(const ConvProblem& p, int64_t tiles, const PlanOptions& options) {
  const int64_t depth = p.n * volume(p.out);
  const int64_t wanted = std::max(2 * int64_t(h100.multiprocessors) / tiles, ceil_div(depth, 8192));
  const int64_t slice_bytes = p.w_elements() * accumulator_bytes(p.dtype);
  const int64_t limit = options.workspace_limit >= 0 ? options.workspace_limit : int64_t(64) << 20;
  int64_t count = std::min({wanted, ceil_div(depth, 256), limit / slice_bytes});
  if (count < 2) count = 1;
  const int64_t length = ceil_div(ceil_div(depth, count), direct_depth) * direct_depth;
  return {ceil_div(depth, length), length};
}

std::string refuse_size(const ConvProblem& p) {
  if (p.n == 0 || p.c == 0) return "the tensors are empty: there is nothing to launch";
  if (p.n > largest_coordinate) return concat("a batch of ", p.n, " samples; the kernel counts them with 30 bits");
  for (int i = 0; i < 3; ++i) {
    const int64_t reach = p.filter[i] == 1 ? 0 : p.dilation[i] * (p.filter[i] - 1);
    if (p.in[i] + p.pad_lo[i] + p.pad_hi[i] + reach > largest_coordinate)
      return concat("spatial axis ", i - (3 - p.rank), " has coordinates beyond 2^30");
  }
  if (volume(p.in) > largest_coordinate || volume(p.out) > largest_coordinate)
    return "one channel of a sample has more than 2^30 positions";
  if (std::max(p.c_per_group(), p.k_per_group()) * volume(p.filter) > largest_coordinate)
    return "a filter has more than 2^30 elements";
  return "";
}

void sum_slices(DType dtype, const ConvArgs& args, int64_t elements, int64_t slices) {
  const SliceParams params{args.workspace, args.out, elements, int(slices)};
  const int64_t blocks = std::min<int64_t>(ceil_div(elements, reduce_threads), 8 * int64_t(h100.multiprocessors));
  auto launch = one_dimensional("reduce_slices", blocks, reduce_threads, args.stream);
  name_regions(launch, {{args.workspace, elements * slices * accumulator_bytes(dtype), "workspace"},
                        {args.out, elements * size_of(dtype), "output"}});
  visit_dtype(dtype, [&](auto t) { launch_slices<decltype(t)>(launch, params); });
}

void set_strides(GatherParams& params, const ConvProblem& p, bool transposed) {
  const Strides x = strides_of(p.layout, p.c, p.groups, p.in), y = strides_of(p.layout, p.k, p.groups, p.out);
  params.source_strides = transposed ? y : x;
  params.out_strides = transposed ? x : y;
  // The filter as a tensor of K samples with C / groups channels.
  const Strides w = strides_of(p.layout, p.c_per_group(), 1, p.filter);
  params.filter_group = p.k_per_group() * w.batch;
  params.filter_row = transposed ? w.channel : w.batch;
  params.filter_channel = transposed ? w.batch : w.channel;
  std::copy(std::begin(w.axis), std::end(w.axis), params.filter_axis);
}

std::vector<Kernel<ConvProblem>> direct_conv_kernels() {
  return {direct_entry<DirectTile::square>("direct_64x64", "implicit GEMM on CUDA cores, 64x64 tile: any problem"),
          direct_entry<DirectTile::flat>("direct_16x128", "the same, 16x128 tile: few output channels or small groups"),
          direct_entry<DirectTile::large>("direct_128x64", "the same, 128x64 tile: float32, many channels"),
          depthwise_entry(),
          {"bias_sum", "bias gradient: ordered two-stage reduction", refuse_bias, cost_bias, prepare_bias}};
}

}  // namespace fastconv::planner
