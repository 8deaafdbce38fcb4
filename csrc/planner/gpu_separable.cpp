// The depthwise-separable kernel as the planner sees it. Its tile of positions is cut as those of the depthwise kernel
// are (gpu_depthwise_tile.h), with a fixed chunk of channels.
#include "kernels/separable_params.h"
#include "planner/gpu_conv.h"
#include "planner/gpu_depthwise_tile.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr int64_t shared_limit = tile_shared_limit, chunk_words = 32;  // channels that a warp's lanes take
constexpr double result_instructions = 10;                             // of a strip's result, on its way into z
// Fraction of the tensor cores' peak that the pointwise loop is expected to reach, as igemm_64x64 does.
constexpr double efficiency = 0.35;
constexpr int tensor_flops_a_cycle = 4096;

int64_t words_of(const ConvProblem& p) { return ceil_div(p.c * size_of(p.dtype), 4); }
int64_t chunks_of(const ConvProblem& p) { return ceil_div(words_of(p), chunk_words); }

struct SeparableTiling {
  SeparableTile tile = SeparableTile::positions_64;
  DepthwiseTiling depthwise;  // of one chunk of channels
  int64_t tiles = 0, splits = 1, row_tiles = 1;
  int64_t buffer_bytes = 0, z_bytes = 0, shared_bytes = 0;
  Cost cost;
};

// ---- one way to cut ----

void set_cost(SeparableTiling& t, const SeparableProblem& p, const PlanOptions& options, bool narrow) {
  const SeparableShape shape = shape_of(t.tile);
  const ConvProblem pointwise = p.pointwise();
  const double element = double(size_of(pointwise.dtype)), blocks = double(t.tiles * t.splits);
  const double chunks = double(chunks_of(p.depthwise)), depth = shape.depth_bytes / element;
  const double source = double(p.depthwise.x_elements()) * element, weights = double(pointwise.w_elements()) * element;
  const double staged = t.depthwise.staged_bytes * double(t.splits), rims = std::max(0.0, staged - source);
  const double residual = options.residual ? double(pointwise.y_elements()) * element : 0;
  const double products = double(t.row_tiles) * chunks * 2 * shape.rows * shape.positions * depth;
  const double first = chunks * block_cycles(p.depthwise, t.depthwise, result_instructions);
  const double second = products / tensor_flops_a_cycle / efficiency / (narrow ? 0.15 : 1);
  Cost cost{};
  cost.flops = p.depthwise.flops(Pass::fprop) * double(t.splits) + blocks * products;
  cost.bytes = p.bytes(Pass::fprop) + residual + rims / 2;  // the rest of the rims is still in L2
  cost.l2_bytes = p.bytes(Pass::fprop) + residual + rims + double(t.tiles) * weights;
  cost.cycles = std::ceil(blocks / h100.multiprocessors) * (first + second);
  set_occupancy(cost, blocks, {shape.warps() * 32, separable_registers(t.tile, narrow), int(t.shared_bytes)});
  // Memory is kept busy by blocks that load while others compute: see tiling_cost.
  const double resident = std::min(blocks / h100.multiprocessors, double(cost.blocks_per_sm));
  const double flying = resident * std::min(2.0, chunks) * staged / blocks / chunks;
  const double busy = std::min({1.0, flying / 32e3 + 0.1, blocks / h100.multiprocessors});
  const double memory = cost.bytes / (h100.bytes_per_second * busy), work = cost.cycles / h100.hertz;
  cost.microseconds = h100.launch_microseconds + 1e6 * (std::max(memory, work) + 0.1 * std::min(memory, work));
  t.cost = cost;
}

bool is_narrow(const ConvProblem& p) { return p.c * size_of(p.dtype) % 16 != 0; }

// Shared memory and grid of a cut; false where there is no room.
bool lay_out_tile(SeparableTiling& t, const SeparableProblem& p, const TileAxes& axes, const Cut& cut, bool narrow) {
  const SeparableShape shape = shape_of(t.tile);
  t.depthwise = cut_up(p.depthwise, Pass::fprop, axes, cut);
  t.depthwise.strip_taps = separable_strip_taps(t.depthwise.strip_taps, narrow);
  DepthwiseTiledParams& params = t.depthwise.params;
  const int64_t chunks = chunks_of(p.depthwise);
  t.buffer_bytes = round_up(t.depthwise.shared_bytes, shape.depth_bytes);
  t.z_bytes = std::max<int64_t>(std::min<int64_t>(2, chunks) * t.buffer_bytes,
                                round_up(shape.scratch_bytes() + shape.ring_bytes(), shape.depth_bytes));
  t.shared_bytes = t.z_bytes + chunks * shape.chunk_bytes();
  if (t.depthwise.shared_bytes > shared_limit || t.shared_bytes > shared_limit) return false;
  params.by_slab = Divisor(cut.tile[1] * cut.tile[2]);
  params.out_pitch = int(cut.tile[0] * cut.tile[1] * cut.tile[2]);
  t.tiles = t.depthwise.blocks / int64_t(params.tile.by_channel_blocks.value);
  return true;
}

// Tiles of the plane that fit the positions, and whole samples where a sample is small.
template <class Visit>
void visit_positions(const ConvProblem& p, const TileAxes& axes, int64_t positions, Visit&& visit) {
  Cut cut{};
  // Few channels: half the lanes take a position.
  cut.words = 2 * words_of(p) <= chunk_words ? chunk_words / 2 : chunk_words;
  cut.tile[0] = 1;
  const int64_t height = axes.axis[1].out_extent, width = axes.axis[2].out_extent;
  for (int64_t w = std::min(width, positions); w > 0; --w) {
    // Of the tiles that cut an axis in as many parts, the most even one.
    if (w != ceil_div(width, ceil_div(width, w))) continue;
    const int64_t most = std::min(height, positions / w);
    for (int64_t h = most; h > 0; --h) {
      if (h != most && h != ceil_div(height, ceil_div(height, h))) continue;
      cut.tile[1] = h, cut.tile[2] = w, cut.planes = 1;
      visit(cut);
      const bool whole = w == width && h == height && axes.axis[0].out_extent == 1;
      cut.planes = whole ? std::min(p.n, positions / (w * h)) : 1;
      if (cut.planes > 1) visit(cut);
    }
  }
}

// The cheapest tiling; none: no tiles.
SeparableTiling tiling_of(const SeparableProblem& p, SeparableTile tile, const PlanOptions& options, bool narrow) {
  const ConvProblem& d = p.depthwise;
  const TileAxes axes = tile_axes(d, Pass::fprop);
  const int64_t rows = ceil_div(p.k, shape_of(tile).rows);
  SeparableTiling best;
  best.tile = tile;
  PlanOptions plain = options;
  plain.residual = false;  // with or without, one cut
  visit_positions(d, axes, shape_of(tile).positions, [&](const Cut& cut) {
    SeparableTiling now = best;
    if (!lay_out_tile(now, p, axes, cut, narrow)) return;
    for (int64_t splits = 1; splits <= std::min<int64_t>(rows, 8); splits *= 2) {
      now.row_tiles = ceil_div(rows, splits), now.splits = ceil_div(rows, now.row_tiles);
      set_cost(now, p, plain, narrow);
      if (best.tiles == 0 || now.cost.microseconds < best.cost.microseconds) best = now;
    }
  });
  if (best.tiles > 0) set_cost(best, p, options, narrow);
  return best;
}

// ---- refuse ----

std::string refuse_shape(const SeparableProblem& p) {
  const ConvProblem& d = p.depthwise;
  if (d.dtype != DType::f16 && d.dtype != DType::bf16)
    return concat("built for float16 and bfloat16: z in ", name_of(d.dtype),
                  " takes twice the shared memory, and few of the products are worth its sparing");
  if (d.layout != Layout::nhwc) return "reads channels last: in channels first a position's channels lie a plane apart";
  if (d.k != d.c) return concat("one filter a channel, here ", d.k / std::max<int64_t>(1, d.c));
  for (const auto& each : {d, p.pointwise()})
    if (auto reason = refuse_size(each); !reason.empty()) return reason;
  return refuse_axes(d, tile_axes(d, Pass::fprop));
}

template <SeparableTile tile>
std::string refuse(const SeparableProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop) return "backward makes z again and takes the gradients of the two parts";
  if (auto reason = refuse_shape(p); !reason.empty()) return reason;
  const bool narrow = is_narrow(p.depthwise);
  if (!has_copy(tile, narrow ? 2 : 16))
    return concat(p.depthwise.c, " channels allow copies of single elements: separable_64 has them");
  const SeparableTiling tiling = tiling_of(p, tile, options, narrow);
  if (tiling.tiles == 0)
    return concat("z of ", p.depthwise.c, " channels takes ", chunks_of(p.depthwise) * shape_of(tile).chunk_bytes(),
                  " bytes of shared memory, and its patches the rest of ", shared_limit, ", or more");
  if (tiling.tiles > largest_grid / tiling.splits) return "needs more than 2^31 - 1 blocks";
  return "";
}

// ---- prepare ----

struct SeparableRun {
  SeparableProblem problem;
  PlanOptions options;
  SeparableTiling tiling;
  SeparableParams params;
  bool narrow;

  void operator()(const SeparableArgs& args) const {
    // Only the smaller tile has narrow copies: the grid is made anew.
    if (!narrow && !aligned(args.pointwise_weight, 16))
      return SeparableRun::of(problem, SeparableTile::positions_64, options, true)(args);
    const device::DeviceScope scope(options.device);
    const ConvProblem& d = problem.depthwise;
    const int64_t element = size_of(d.dtype), vector = 16 / element;
    SeparableParams now = params;
    set_addresses(now.depthwise.gather, {args.x, args.depthwise_weight, args.depthwise_bias});
    set_addresses(now.pointwise, {nullptr, args.pointwise_weight, args.bias, args.residual, args.out});
    set_copies(now.depthwise.tile, true, d.dtype, args.x);
    now.pointwise.vector_stores =
        problem.k % vector == 0 && aligned(args.out, 16) && aligned(args.bias, 16) && aligned(args.residual, 16);
    auto launch = one_dimensional("separable", tiling.tiles * tiling.splits,
                                  unsigned(shape_of(tiling.tile).warps() * 32), args.stream);
    launch.shared_bytes = size_t(tiling.shared_bytes);
    const ConvProblem pointwise = problem.pointwise();
    name_regions(launch, {{args.x, element * d.x_elements(), "x"},
                          {args.depthwise_weight, element * d.w_elements(), "depthwise_weight"},
                          {args.depthwise_bias, element * d.k, "depthwise_bias"},
                          {args.pointwise_weight, element * pointwise.w_elements(), "pointwise_weight"},
                          {args.bias, element * problem.k, "bias"},
                          {args.residual, element * pointwise.y_elements(), "residual"},
                          {args.out, element * pointwise.y_elements(), "output"}});
    const int bytes = narrow ? int(element) : 16;
    const auto run = [&](auto t) {
      launch_separable<decltype(t)>(tiling.tile, bytes, tiling.depthwise.strip_taps, tiling.depthwise.step, launch,
                                    now);
    };
    d.dtype == DType::f16 ? run(f16{}) : run(bf16{});
  }

  static SeparableRun of(const SeparableProblem& p, SeparableTile tile, const PlanOptions& options, bool narrow);
};

SeparableRun SeparableRun::of(const SeparableProblem& p, SeparableTile tile, const PlanOptions& options, bool narrow) {
  SeparableRun run{p, options, tiling_of(p, tile, options, narrow), {}, narrow};
  const SeparableTiling& t = run.tiling;
  const ConvProblem pointwise = p.pointwise();
  const TileAxes axes = tile_axes(p.depthwise, Pass::fprop);
  SeparableParams& params = run.params;
  params.depthwise = t.depthwise.params;
  PlanOptions between;
  between.activation = p.activation, between.slope = p.slope;
  set_tensors(params.depthwise, p.depthwise, Pass::fprop, axes, between);
  GatherParams& g = params.pointwise;
  g.rows = int(p.k), g.channels = int(pointwise.c), g.groups = 1, g.batch = pointwise.n;
  set_strides(g, pointwise, false), set_epilogue(g, options);
  if (axes.order[1] != 1) std::swap(g.out_strides.axis[1], g.out_strides.axis[2]);
  params.out_sample = g.out_strides.batch;
  params.chunks = int(chunks_of(p.depthwise)), params.row_tiles = int(t.row_tiles);
  params.piecewise = is_piecewise(p.activation);
  params.by_splits = Divisor(t.splits);
  params.buffer_bytes = int(t.buffer_bytes), params.z_bytes = int(t.z_bytes);
  return run;
}

template <SeparableTile tile>
Cost cost(const SeparableProblem& p, Pass, const PlanOptions& options) {
  return tiling_of(p, tile, options, is_narrow(p.depthwise)).cost;
}

template <SeparableTile tile>
Prepared<SeparableProblem> prepare(const SeparableProblem& p, Pass, const PlanOptions& options) {
  const SeparableRun run = SeparableRun::of(p, tile, options, is_narrow(p.depthwise));
  const SeparableTiling& t = run.tiling;
  const DepthwiseTile& d = t.depthwise.params.tile;
  Prepared<SeparableProblem> prepared;
  prepared.launch = run;
  prepared.detail = concat("tile ", d.axis[1].tile, "x", d.axis[2].tile, " of ", d.planes, " samples, ",
                           run.params.chunks, " chunks of ", d.chunk, " channels on chip, ", t.row_tiles, " tiles of ",
                           shape_of(tile).rows, " output channels a block, copies of ", run.narrow ? 2 : 16,
                           " bytes, grid ", t.tiles * t.splits, ", ", t.shared_bytes, " bytes shared");
  return prepared;
}

template <SeparableTile tile>
Kernel<SeparableProblem> entry(const char* name, const char* summary) {
  return {name, summary, refuse<tile>, cost<tile>, prepare<tile>, "separable"};
}

}  // namespace

std::vector<Kernel<SeparableProblem>> separable_entries() {
  return {entry<SeparableTile::positions_64>("separable_64", "one launch, z in shared memory: 64 positions a block"),
          entry<SeparableTile::positions_128>("separable_128", "the same, 128 positions a block")};
}

}  // namespace fastconv::planner
