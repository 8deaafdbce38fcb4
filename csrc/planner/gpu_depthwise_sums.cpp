// wgrad by the tiled depthwise kernels.
#include <algorithm>
#include <array>
#include <cmath>

#include "planner/gpu_depthwise_tile.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr int strip = depthwise_strip, threads = depthwise_tile_threads;

struct Sums {
  DepthwiseSumsParams params;  // but for addresses
  int vector = 1, taps = 3, step = 1;
  int64_t filter_tiles = 1, channel_blocks = 1, slices = 1, items = 0, blocks = 0, shared_bytes = 0;
  double staged_bytes = 0;  // of all blocks

  int registers() const {
    const Registers* lines = vector > 1 ? depthwise_word_sums : depthwise_sums;
    return lines[taps == 3 ? 0 : taps == 5 ? 1 : 2].count;
  }
};

// Rows and columns of the filter that a block takes: the fewest that hold all of it.
int taps_of(const ConvProblem& p, const TileAxes& axes) {
  const int64_t most = std::max(p.filter[axes.order[1]], p.filter[axes.order[2]]);
  for (int taps : depthwise_strip_taps)
    if (most <= taps) return taps;
  return std::end(depthwise_strip_taps)[-1];
}

// fprop's axes, with the taps of one block.
TileAxes sums_axes(const ConvProblem& p) {
  TileAxes axes = tile_axes(p, Pass::fprop);
  const int taps = taps_of(p, axes);
  for (int i = 0; i < 3; ++i) axes.axis[i].phase[0].taps = std::min(axes.axis[i].phase[0].taps, i == 0 ? 1 : taps);
  return axes;
}

// The tiles of gy: the outputs themselves.
TileAxes gradient_axes(TileAxes axes) {
  for (TileAxis& a : axes.axis) {
    a.source_extent = a.out_extent, a.step = a.spacing = a.phases = 1;
    a.phase[0] = {0, 1, 0, 1};
  }
  return axes;
}

void set_places(Sums& sums, const ConvProblem& p, const Cut& cut) {
  DepthwiseSumsParams& params = sums.params;
  const bool last = params.channels_last;
  const int64_t several = p.k_per_group();
  const TileAxis& down = params.x_tile.axis[1];
  const Strips strips = strips_of(down);
  params.slots = int((last ? params.x_tile.chunk / sums.vector : cut.planes) * several);
  params.share = std::max(1, threads / params.slots);  // too many slots are refused
  params.by_per = Divisor(several);
  const int64_t samples = last ? cut.planes : 1;
  params.places = int(cut.tile[2] * samples * cut.tile[0] * strips.count), params.positions = int(strips.positions);
  params.by_slots = Divisor(params.slots), params.by_share = Divisor(params.share);
  params.by_columns = Divisor(cut.tile[2]), params.by_samples = Divisor(samples);
  params.by_depth = Divisor(cut.tile[0]), params.by_spacing = Divisor(down.spacing);
  params.lanes = 1;
  if (!last)
    while (params.lanes < 32 && 2 * params.lanes <= params.share) params.lanes *= 2;
  sums.channel_blocks = last ? ceil_div(p.c, params.x_tile.chunk) : ceil_div(p.c, cut.planes);
  params.x_tile.by_channel_blocks = Divisor(sums.channel_blocks);
}

Sums cut_up(const ConvProblem& p, const TileAxes& axes, const Cut& cut, const PlanOptions& options) {
  const bool last = p.layout == Layout::nhwc;
  Sums sums;
  DepthwiseSumsParams& params = sums.params;
  params.channels_last = last, params.channels = int(p.c), params.filters = int(p.k);
  sums.vector = vector_of(p);
  sums.taps = taps_of(p, axes), sums.step = axes.axis[1].step;
  for (int i = 0; i < 3; ++i) params.filter[i] = int(p.filter[axes.order[i]]);
  const int64_t rows = ceil_div(params.filter[1], sums.taps), columns = ceil_div(params.filter[2], sums.taps);
  params.by_row_tiles = Divisor(rows), params.by_column_tiles = Divisor(columns);
  params.by_depth_taps = Divisor(params.filter[0]);
  sums.filter_tiles = rows * columns * params.filter[0];
  const int64_t patch = round_up(lay_out(p, axes, cut, 1, params.x_tile), 16);
  ConvProblem unpadded = p;  // gy has no padding
  unpadded.pad_mode = PadMode::zeros;
  const int64_t gradients = lay_out(unpadded, gradient_axes(axes), cut, p.k_per_group(), params.gy_tile);
  params.gy_bytes = int(patch);
  const int64_t closing =
      int64_t(sums.taps) * sums.taps * depthwise_closing_pitch(sums.taps) * accumulator_bytes(p.dtype);
  sums.shared_bytes = std::max(patch + gradients, closing);
  set_places(sums, p, cut);
  sums.items = last ? ceil_div(p.n, cut.planes) : p.n;
  for (const TileAxis& a : params.x_tile.axis) sums.items *= a.by_tiles.value;
  const int64_t tiles = sums.channel_blocks * sums.filter_tiles;
  // Blocks of few threads: three in the place of one.
  const int64_t slices = std::min(sums.items, slices_of(p, ceil_div(tiles, 3), options).count);
  params.items = int(sums.items), params.items_a_slice = int(ceil_div(sums.items, slices));
  sums.slices = ceil_div(sums.items, params.items_a_slice);
  params.partial = sums.slices > 1;
  sums.blocks = tiles * sums.slices;
  sums.staged_bytes = (staged_bytes(p, params.x_tile) + staged_bytes(p, params.gy_tile)) * double(sums.filter_tiles);
  return sums;
}

Cost cost_of(const ConvProblem& p, const Sums& sums, const PlanOptions& options) {
  const DepthwiseSumsParams& params = sums.params;
  const double element = double(size_of(p.dtype)), rows = double(strip - 1) * sums.step + sums.taps;
  const double x = double(p.x_elements()) * element, y = double(p.y_elements()) * element;
  const double rims = std::max(0.0, sums.staged_bytes - (x + y) * double(sums.filter_tiles));
  const double once = traffic(p, Pass::wgrad, options) + (x + y) * double(sums.filter_tiles - 1);
  // A strip of a warp, in instructions, and its loads, a cycle of the SM each; the block's warps take turns.
  const double loads = rows * sums.taps + strip, converts = element == 2 ? 2 : 0;
  const double instructions =
      100 + 8 * strip + 3 * rows + sums.taps * (10 + rows * (2 + converts) + sums.taps * strip * sums.vector);
  const double rounds = double(ceil_div(params.places, params.share)) * threads / 32;
  const double copies = double(params.x_tile.planes) * params.x_tile.axis[0].patch * params.x_tile.axis[1].patch *
                        params.x_tile.row_copies;
  const double item = rounds * std::max(instructions / 4, loads) + copies / 32 * 5 + 100;
  Cost cost{};
  cost.flops = p.flops(Pass::wgrad);
  cost.bytes = once + rims / 2, cost.l2_bytes = once + rims;
  set_occupancy(cost, double(sums.blocks), {threads, sums.registers(), int(sums.shared_bytes)});
  const double resident = std::min(double(cost.blocks_per_sm), std::ceil(double(sums.blocks) / h100.multiprocessors));
  constexpr double latency = 1200;  // of a tile's copies, which other blocks hide
  const double closing = double(sums.taps * sums.taps * sums.vector) * 20;
  cost.cycles = cost.waves * (params.items_a_slice * std::max(resident * item, item + latency) + resident * closing);
  const double work = cost.cycles / h100.hertz, memory = cost.bytes / h100.bytes_per_second;
  cost.microseconds = h100.launch_microseconds + 1e6 * (std::max(memory, work) + 0.1 * std::min(memory, work));
  if (!params.partial) return cost;
  const double partial = double(sums.slices * p.w_elements() * accumulator_bytes(p.dtype));
  cost.bytes += partial, cost.l2_bytes += partial;
  return cost + roofline(p.dtype, {1, 0, 1, partial + double(p.w_elements()) * element});
}

Sums sums_of(const ConvProblem& p, const PlanOptions& options) {
  const TileAxes axes = sums_axes(p);
  Sums best;
  double least = 0;
  visit_cuts(p, axes, [&](const Cut& cut) {
    if (p.layout == Layout::nchw && cut.planes / 2 >= p.c) return;
    const Sums sums = cut_up(p, axes, cut, options);
    if (sums.shared_bytes > tile_shared_limit || sums.params.slots > threads) return;
    const double time = cost_of(p, sums, options).microseconds;
    if (best.blocks == 0 || time < least) best = sums, least = time;
  });
  DepthwiseSumsParams& params = best.params;
  params.x_strides = strides_of(p.layout, p.c, p.groups, p.in);
  params.gy_strides = strides_of(p.layout, p.k, p.groups, p.out);
  params.x_tile.outer_stride = params.channels_last ? params.x_strides.batch : params.x_strides.channel;
  params.gy_tile.outer_stride = params.channels_last ? params.gy_strides.batch : params.gy_strides.channel;
  if (axes.order[1] != 1) {
    std::swap(params.x_strides.axis[1], params.x_strides.axis[2]);
    std::swap(params.gy_strides.axis[1], params.gy_strides.axis[2]);
  }
  return best;
}

struct SumsRun {
  ConvProblem problem;
  int device;
  Sums sums;

  void operator()(const ConvArgs& args) const {
    const device::DeviceScope scope(device);
    DepthwiseSumsParams now = sums.params;
    now.x = args.a, now.gy = args.b, now.out = now.partial ? args.workspace : args.out;
    set_copies(now.x_tile, now.channels_last, problem.dtype, args.a);
    set_copies(now.gy_tile, now.channels_last, problem.dtype, args.b);
    auto launch = one_dimensional("depthwise_tiled_wgrad", sums.blocks, depthwise_tile_threads, args.stream);
    launch.shared_bytes = size_t(sums.shared_bytes);
    name_wgrad_regions(launch, problem, now.x, now.gy, now.out, now.partial ? sums.slices : 0);
    visit_dtype(problem.dtype, [&](auto t) {
      using T = decltype(t);
      if constexpr (!std::is_same_v<T, double>)
        launch_depthwise_sums<T>(sums.vector > 1, sums.taps, sums.step, launch, now);
    });
    if (now.partial) sum_slices(problem.dtype, args, problem.w_elements(), sums.slices);
  }
};

}  // namespace

std::string refuse_sums(const ConvProblem& p, const PlanOptions& options) {
  const TileAxes axes = sums_axes(p);
  if (axes.axis[1].step > 2) return concat("strides of 1 and 2 are built, here ", p.stride[axes.order[1]]);
  const Sums sums = sums_of(p, options);
  if (sums.blocks == 0 && p.k_per_group() > 4)
    return concat(p.k_per_group(), " filters a channel: one block's threads or shared memory do not hold them");
  if (sums.blocks == 0)
    return concat("the windows of its smallest tile take more than ", tile_shared_limit, " bytes of shared memory");
  if (sums.blocks > largest_grid || sums.items > largest_grid) return "needs more than 2^31 - 1 blocks or tiles";
  return "";
}

Cost sums_cost(const ConvProblem& p, const PlanOptions& options) { return cost_of(p, sums_of(p, options), options); }

Prepared<ConvProblem> prepare_sums(const ConvProblem& p, const PlanOptions& options) {
  const Sums sums = sums_of(p, options);
  const DepthwiseSumsParams& params = sums.params;
  const DepthwiseTile& t = params.x_tile;
  Prepared<ConvProblem> prepared;
  prepared.launch = SumsRun{p, options.device, sums};
  if (params.partial) prepared.workspace_bytes = sums.slices * p.w_elements() * accumulator_bytes(p.dtype);
  prepared.detail =
      concat("tile ", t.axis[0].tile, "x", t.axis[1].tile, "x", t.axis[2].tile, " of ", t.planes,
             params.channels_last ? concat(" samples and ", t.chunk, " channels") : " planes", ", ", sums.taps, "x",
             sums.taps, " taps, grid ", sums.blocks, ", ", sums.slices, " slices of ", params.items_a_slice, " tiles");
  return prepared;
}

}  // namespace fastconv::planner
