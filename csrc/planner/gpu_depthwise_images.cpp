// dgrad where padding repeats the input: what the tiled kernel computes, and what is added after it.
#include <algorithm>

#include "planner/gpu_depthwise_tile.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

RimAxis rim_axis(const ConvProblem& p, int i) {
  const int low = int(p.pad_lo[i]), high = int(p.pad_hi[i]), extent = int(p.in[i]);
  RimAxis a{low, high, 0, extent};
  if (p.pad_mode == PadMode::reflect) a.low = low ? low + 1 : 0, a.high = high ? extent - high - 1 : extent;
  if (p.pad_mode == PadMode::replicate) a.low = low > 0, a.high = extent - (high > 0);
  if (p.pad_mode == PadMode::circular) a.low = high, a.high = extent - low;
  a.low = std::min(a.low, extent), a.high = std::max(a.high, a.low);
  return a;
}

// The adjoint of padding, as a convolution of one tap whose output is the padded input.
ConvProblem folding(ConvProblem p) {
  p.k = p.groups = p.c;
  for (int i = 0; i < 3; ++i) p.out[i] = p.in[i] + p.pad_lo[i] + p.pad_hi[i];
  p.filter = p.stride = p.dilation = {1, 1, 1};
  return p;
}

DepthwiseImagesParams params_of(const ConvProblem& p, bool folds, const PlanOptions& options) {
  const ConvProblem q = folds ? folding(p) : p;
  DepthwiseImagesParams params{};
  GatherParams& g = params.gather;
  g.transposed = true, g.rows = 1, g.channels = int(q.k_per_group()), g.groups = int(p.groups), g.batch = p.n;
  set_strides(g, q, true), set_epilogue(g, options);
  params.mode = p.pad_mode, params.folds = folds, params.channels_last = p.layout == Layout::nhwc;
  int64_t inside = 1, after = volume(p.in);
  for (int i = 0; i < 3; ++i) {
    g.axis[i] = axis_of(q, i, true);
    params.by_stride[i] = Divisor(g.axis[i].stride);
    RimAxis& a = params.rim[i] = rim_axis(p, i);
    after /= p.in[i];
    const int64_t slab = inside * (p.in[i] - (a.high - a.low)) * after;
    if (i < 2) params.slab[i] = int(slab);
    params.elements += int(slab), inside *= a.high - a.low;
  }
  if (folds) params.elements = int(volume(p.in));
  return params;
}

// Some hundred instructions an element, a dozen a product, half of that to ask a coordinate what it holds; four warps
// issue at once.
Cost cost_of(const ConvProblem& p, const Images& images) {
  const DepthwiseImagesParams& params = images.params;
  double all = 1, inside = 1, asked = 1;
  for (int i = 0; i < 3; ++i) {
    const RimAxis& a = params.rim[i];
    all *= double(p.in[i] + a.pad_low + a.pad_high), inside *= double(a.high - a.low);
    asked *= i < 2 ? double(params.gather.axis[i].taps) : double(1 + a.pad_low + a.pad_high);
  }
  const double planes = double(p.n * p.c), elements = double(params.elements);
  const double taps = params.folds ? 1 : double(volume(p.filter) * p.k_per_group()),
               products = (params.folds ? all : all - inside) * taps;
  Cost cost{};
  cost.flops = 2 * planes * products;
  cost.bytes = cost.l2_bytes = planes * ((params.folds ? all : elements) + elements) * double(size_of(p.dtype));
  set_occupancy(cost, double(images.blocks), {depthwise_threads, depthwise_images.count, 0});
  const double instructions = planes * (elements * (100 + 6 * asked) + products * 12);
  cost.cycles = instructions / 32 / 4 / std::min(h100.multiprocessors, double(images.blocks));
  cost.microseconds =
      h100.launch_microseconds + 1e6 * std::max(cost.cycles / h100.hertz, cost.bytes / h100.bytes_per_second);
  return cost;
}

Images made(const ConvProblem& p, bool folds, const PlanOptions& options) {
  Images images{folds ? p.padded() : p};
  images.tiled.pad_mode = PadMode::zeros;
  images.params = params_of(p, folds, options);
  images.blocks = ceil_div(p.n * p.c * images.params.elements, depthwise_threads);
  if (folds) images.workspace_bytes = images.tiled.x_elements() * size_of(p.dtype);
  images.cost = cost_of(p, images);
  return images;
}

double microseconds(ConvProblem p, bool folds) {
  p.n = kReferenceBatch;
  const Images images = made(p, folds, {});
  return images.cost.microseconds +
         tiling_cost(images.tiled, Pass::dgrad, tiling_of(images.tiled, Pass::dgrad, {}), {}).microseconds;
}

}  // namespace

Images images_of(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::dgrad || p.pad_mode == PadMode::zeros) return {p};
  const Images folded = made(p, true, options);
  const bool fits = options.workspace_limit < 0 || folded.workspace_bytes <= options.workspace_limit;
  if (!fits || !refuse_size(folded.tiled).empty() || !refuse_tiling(folded.tiled, pass).empty() ||
      microseconds(p, false) < microseconds(p, true))
    return made(p, false, options);
  return folded;
}

std::string Images::describe() const {
  if (blocks == 0) return "";
  if (!params.folds) return concat(", then ", params.elements, " elements a plane again, which padding repeats");
  return concat(", of the padded input in the workspace, then folded for ", int64_t(cost.microseconds + 1),
                " us predicted");
}

ConvArgs args_of_tiled(const Images& images, const ConvArgs& args) {
  if (images.blocks == 0 || !images.params.folds) return args;
  return {args.a, args.b, nullptr, nullptr, args.workspace, nullptr, args.stream};
}

void add_images(const ConvProblem& p, const Images& images, const ConvArgs& args) {
  if (images.blocks == 0) return;
  ConvArgs from = args;
  if (images.params.folds) from.a = args.workspace, from.b = nullptr;
  DepthwiseImagesParams now = images.params;
  set_addresses(now.gather, from);
  auto launch = one_dimensional("depthwise_images", images.blocks, depthwise_threads, args.stream);
  name_gather_regions(launch, images.params.folds ? folding(p) : p, p, Pass::dgrad, from);
  visit_dtype(p.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (!std::is_same_v<T, double>) launch_depthwise_images<T>(launch, now);
  });
}

}  // namespace fastconv::planner
