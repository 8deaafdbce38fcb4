// What the planners of the convolution kernels share: the GEMM that a pass is, and the parameters of its launch.
#include "planner/gpu_conv.h"

#include <numeric>

#include "kernels/reduce_params.h"
#include "planner/cost.h"

namespace fastconv::planner {

using namespace kernels;

namespace {

int64_t inverse_modulo(int64_t a, int64_t modulus) {
  int64_t r0 = modulus, r1 = a % modulus, t0 = 0, t1 = 1;
  while (r1 != 0) {
    const int64_t q = r0 / r1;
    std::tie(r0, r1) = std::pair(r1, r0 - q * r1);
    std::tie(t0, t1) = std::pair(t1, t0 - q * t1);
  }
  return modulus == 1 ? 0 : (t0 % modulus + modulus) % modulus;
}

}  // namespace

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

int64_t tiles_of(const ConvProblem& p, const Gemm& gemm, const BlockTile& tile) {
  return gemm.phases * p.groups * ceil_div(gemm.rows, tile.rows) * ceil_div(gemm.columns, tile.columns);
}

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

Slices slices_of(const ConvProblem& p, int64_t tiles, const PlanOptions& options, int64_t unit) {
  const int64_t depth = p.n * volume(p.out);
  const int64_t wanted = std::max(2 * int64_t(h100.multiprocessors) / tiles, ceil_div(depth, 8192));
  const int64_t slice_bytes = p.w_elements() * accumulator_bytes(p.dtype);
  const int64_t limit = options.workspace_limit >= 0 ? options.workspace_limit : int64_t(64) << 20;
  int64_t count = std::min({wanted, ceil_div(depth, 256), limit / slice_bytes});
  if (count < 2) count = 1;
  const int64_t length = ceil_div(ceil_div(depth, count), unit) * unit;
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

Cost gemm_cost(const ConvProblem& p, Pass pass, const PlanOptions& options, const BlockTile& tile, int64_t depth,
               double efficiency, double peak, const Footprint& footprint) {
  const Gemm gemm = gemm_of(p, pass);
  const double tiles = double(tiles_of(p, gemm, tile)), padded = double(ceil_div(gemm.depth, depth) * depth);
  Work work{tiles, 2.0 * tile.rows * tile.columns * padded, efficiency, traffic(p, pass, options), peak, 0, footprint};
  // Every block loads the operands of its tile; the result is stored once.
  const int64_t out = pass == Pass::fprop ? p.y_elements() : pass == Pass::dgrad ? p.x_elements() : p.w_elements();
  work.l2_bytes = (tiles * padded * double(tile.rows + tile.columns) + double(out)) * double(size_of(p.dtype));
  // The gathered source is read once a row tile; from L2 while it fits there.
  const double source = double((pass == Pass::dgrad ? p.y_elements() : p.x_elements()) * size_of(p.dtype));
  if (source > h100.l2_bytes) work.bytes += source * double(ceil_div(gemm.rows, tile.rows) - 1);
  if (pass != Pass::wgrad) return roofline(p.dtype, work);
  const Slices slices = slices_of(p, int64_t(tiles), options, depth);
  work.blocks *= double(slices.count), work.block_flops /= double(slices.count);
  if (slices.count == 1) return roofline(p.dtype, work);
  const double partial = double(slices.count * p.w_elements() * accumulator_bytes(p.dtype));
  work.bytes += partial, work.l2_bytes += partial;
  return roofline(p.dtype, work) + roofline(p.dtype, {1, 0, 1, partial + double(p.w_elements() * size_of(p.dtype))});
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

GatherParams gather_params(const ConvProblem& p, Pass pass, const PlanOptions& options, const BlockTile& tile,
                           int64_t vector) {
  const bool transposed = pass == Pass::dgrad, last = p.layout == Layout::nhwc;
  const Gemm gemm = gemm_of(p, pass);
  GatherParams params{};
  params.transposed = transposed;
  set_epilogue(params, options);
  params.rows = int(gemm.rows);
  params.channels = int(transposed ? p.k_per_group() : p.c_per_group());
  params.groups = int(p.groups), params.batch = p.n;
  params.row_tiles = int(ceil_div(gemm.rows, tile.rows));
  params.column_tiles = int(ceil_div(gemm.columns, tile.columns));
  for (int i = 0; i < 3; ++i) params.axis[i] = axis_of(p, i, transposed);
  set_strides(params, p, transposed);
  const int64_t out_plane = transposed ? volume(p.in) : volume(p.out);
  const int64_t contiguous = last ? gemm.rows : gemm.phases == 1 ? out_plane : 1;
  params.vector_stores = contiguous % vector == 0;
  return params;
}

WgradParams wgrad_params(const ConvProblem& p, const BlockTile& tile, const Slices& slices, int64_t vector) {
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
  params.vector_stores = gemm.columns % vector == 0;
  return params;
}

void name_gather_regions(device::Launch& launch, const ConvProblem& p, const ConvProblem& result, Pass pass,
                         const ConvArgs& args) {
  const bool dgrad = pass == Pass::dgrad;
  const int64_t element = size_of(p.dtype);
  name_regions(launch, {{args.a, element * (dgrad ? p.y_elements() : p.x_elements()), dgrad ? "gy" : "x"},
                        {args.b, element * p.w_elements(), "weight"},
                        {args.bias, element * (dgrad ? result.c : result.k), "bias"},
                        {args.residual, element * result.y_elements(), "residual"},
                        {args.out, element * (dgrad ? result.x_elements() : result.y_elements()), "output"}});
}

void name_wgrad_regions(device::Launch& launch, const ConvProblem& p, const void* x, const void* gy, void* out,
                        int64_t slices) {
  const int64_t element = size_of(p.dtype), each = slices > 0 ? slices * accumulator_bytes(p.dtype) : element;
  name_regions(launch, {{x, element * p.x_elements(), "x"},
                        {gy, element * p.y_elements(), "gy"},
                        {out, p.w_elements() * each, slices > 0 ? "workspace" : "output"}});
}

std::vector<Kernel<ConvProblem>> direct_conv_kernels() {
  std::vector<Kernel<ConvProblem>> table = igemm_entries();
  for (auto& entry : direct_entries()) table.push_back(entry);
  table.push_back(depthwise_tiled_entry());
  table.push_back(depthwise_toeplitz_entry());
  table.push_back(depthwise_entry());
  table.push_back(bias_entry());
  return table;
}

}  // namespace fastconv::planner
