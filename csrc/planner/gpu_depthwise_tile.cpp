#include "planner/gpu_depthwise_tile.h"

#include <array>
#include <cmath>
#include <numeric>

#include "planner/cost.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr int strip = depthwise_strip, threads = depthwise_tile_threads;
constexpr int64_t bank_words = 32, copy_bytes = 16, sector_bytes = 32;
// Traffic is counted, work is estimated: of cuts that take about as long, one with less traffic is chosen. So much of
// the time that its bytes take is added to a cut's price.
constexpr double traffic_weight = 0.4;

// ---- the axes ----

// The taps that output `phase` meets, by ascending source coordinate.
TileTaps taps_of(const DirectAxis& a, bool transposed, int phase) {
  if (!transposed) return {-a.pad, a.taps, 0, 1};
  TileTaps found{0, 0, 0, -a.modulus};
  for (int r = 0; r < a.taps; ++r) {
    const int64_t shifted = int64_t(phase) + a.pad - int64_t(r) * a.dilation;
    if (shifted % a.stride != 0) continue;
    ++found.taps, found.filter_first = r, found.first = int(shifted / a.stride);
  }
  return found;
}

TileAxis tile_axis(const DirectAxis& a, bool transposed) {
  TileAxis t{};
  t.source_extent = a.source_extent, t.out_extent = a.out_extent;
  t.step = transposed || a.out_extent == 1 ? 1 : a.stride;
  t.spacing = transposed ? a.dilation / a.gcd : a.dilation;
  t.phases = transposed ? a.phases : 1;
  for (int f = 0; f < std::min(t.phases, 2); ++f) t.phase[f] = taps_of(a, transposed, f);
  return t;
}

void set_tile(TileAxis& a, int64_t tile, int64_t alignment, PadMode mode) {
  a.tile = int(tile), a.advance = int(tile / a.phases * a.step);
  int64_t low = largest_coordinate, high = -largest_coordinate;
  for (int f = 0; f < a.phases; ++f) {
    const TileTaps& t = a.phase[f];
    if (t.taps == 0) continue;
    low = std::min<int64_t>(low, t.first), high = std::max<int64_t>(high, t.first + int64_t(t.taps - 1) * a.spacing);
  }
  if (low > high) low = high = 0;
  const int64_t reach = (ceil_div(tile, a.phases) - 1) * a.step + high - low + 1;
  a.patch = int(std::min<int64_t>(a.source_extent, round_up(reach + alignment - 1, alignment)));
  a.origin = int(low), a.lowest = 0, a.highest = a.source_extent - a.patch;
  if (mode != PadMode::zeros)
    a.patch = int(reach), a.lowest = -int(largest_coordinate), a.highest = int(largest_coordinate);
  a.by_tiles = Divisor(ceil_div(a.out_extent, tile));
}

int64_t tiles_of(const TileAxis& a) { return a.by_tiles.value; }

// ---- one way to cut ----

// Rows of the filter in one pass over a strip: of those that exist, the one with the fewest loads.
int strip_taps_of(const TileAxis& a) {
  int best = 0;
  int64_t least = 0;
  for (int taps : depthwise_strip_taps) {
    int64_t loads = 0;
    for (int f = 0; f < a.phases; ++f) {
      const int64_t rows = (strip - 1) * a.step, count = a.phase[f].taps;
      loads += count / taps * (rows + 2 * taps) + count % taps * (rows + 2);
    }
    if (best == 0 || loads < least) best = taps, least = loads;
  }
  return best;
}

// An axis of a tensor in pieces of one length, the first at `first`, the others `advance` further each.
struct Pieces {
  int64_t extent, length, first, advance, total;  // total: the lengths of all
};
Pieces equal_pieces(int64_t extent, int64_t length) { return {extent, length, 0, length, extent}; }

// Bytes of all boxes of such pieces (innermost axis first), counted in the sectors that they lie in. A box is runs of
// neighbours, as long as the axes that it has all of and its piece of the next one; runs start anywhere in a sector
// that their common divisor allows, one as often as another.
double sectors_of(int64_t element, std::initializer_list<Pieces> axes) {
  double bytes = double(element);
  int64_t whole = element, run = 0, unit = sector_bytes, lead = 0;
  for (const Pieces& a : axes) {
    bytes *= double(a.total);
    if (run > 0) continue;
    if (a.length >= a.extent) {
      whole *= a.length;
    } else {
      run = whole * a.length, unit = std::gcd(sector_bytes, whole * std::gcd(a.extent, a.advance));
      lead = (whole * a.first % unit + unit) % unit;
    }
  }
  return run == 0 ? bytes : bytes / double(run) * double(round_up(lead + run, unit) + sector_bytes - unit);
}

// Copies as wide as shape and tile allow.
int64_t copy_unit(const ConvProblem& p, const DepthwiseTile& t) {
  const int64_t element = size_of(p.dtype);
  const bool last = p.layout == Layout::nhwc;
  const int64_t run = last ? std::gcd(t.channels, t.chunk) : t.half > 0 ? 1 : t.aligned;
  for (int64_t bytes : {copy_bytes, int64_t(4)})
    if (run * element % bytes == 0) return bytes;
  return element;
}

// The least pitch, a multiple of `unit` from `pitch` on, with which the plane `step` on begins in the bank after the
// row's last.
int64_t next_bank(int64_t pitch, int64_t row, int64_t banks, int64_t unit, int64_t step) {
  row = round_up(row, unit);
  while ((step * pitch - row) % banks != 0) pitch += unit;
  return pitch;
}

// How far apart the planes are that lanes take one after the other, modulo the block's planes (a power of two). Odd
// planes, whole warps of them, so lie one after the other, which suits copies and staged sums, and yet the one that
// lanes run on into begins in the next bank.
int64_t plane_step_of(const ConvProblem& p, const Cut& cut) {
  const int64_t plane = cut.tile[0] * cut.tile[1] * cut.tile[2];
  int64_t step = 1;
  if (p.layout == Layout::nchw && p.k == p.c && cut.planes % bank_words == 0 && plane % 2 != 0)
    while ((step * plane - cut.tile[2]) % bank_words != 0) step += 2;
  return step;
}

// Channels first, single words, even and odd columns apart: sets `half` so that both are copied at once, and returns
// the pitch with which rows follow each other. Lanes that run on into the next row find free banks there; or, where
// strips are no whole warps and short, those that run on into the next strip do.
int64_t split_rows(DepthwiseTile& t, const Cut& cut) {
  const int64_t lanes = cut.tile[2] * cut.planes * cut.tile[0], rows = int64_t(strip) * t.axis[1].step;
  const bool crossing = cut.tile[1] > strip && lanes % bank_words != 0 && lanes < 2 * t.axis[2].patch;
  const bool by_strips = crossing && lanes % 2 == 0 && t.axis[1].spacing == 1;
  // Rows of whole sectors may be copied by whole warps, which need no such pitch.
  const bool whole = by_strips && t.axis[2].source_extent * 4 % sector_bytes == 0;
  t.copies_unit = whole ? int(bank_words) : 2;
  const int64_t evens = round_up(t.axis[2].patch, t.copies_unit) / 2;
  t.half = int(evens + ((bank_words / 2 - evens) % bank_words + bank_words) % bank_words);
  const int64_t least = t.half + evens;
  for (int64_t pitch = least; pitch < least + bank_words; ++pitch)
    if (by_strips ? (rows * pitch - lanes) % bank_words == 0 : (pitch - evens) % (bank_words / 2) == 0) return pitch;
  return least;
}

// Channels of the result, which are planes where they come first, for those of the source.
int64_t results_of(const DepthwiseTiledParams& params, int64_t of_source) {
  return of_source / params.summed * params.spread;
}
// Of a block's plane of the result.
int64_t output_channels(const DepthwiseTiledParams& params) {
  return params.channels_last ? results_of(params, params.tile.chunk) : 1;
}

// Of all blocks, in whole sectors.
double stored_bytes(const ConvProblem& p, const DepthwiseTiledParams& params) {
  const DepthwiseTile& t = params.tile;
  const auto tiles = [&](int i) { return equal_pieces(t.axis[i].out_extent, t.axis[i].tile); };
  const auto planes = [&](int64_t of_source) {
    return params.channels_last ? of_source : results_of(params, of_source);
  };
  return sectors_of(size_of(p.dtype), {equal_pieces(params.outputs, output_channels(params)), tiles(2), tiles(1),
                                       tiles(0), equal_pieces(planes(t.outer), planes(t.planes))});
}

void set_work(DepthwiseTiledParams& params, const ConvProblem& p, const Cut& cut, int vector) {
  const TileAxis& down = params.tile.axis[1];
  const Strips strips = strips_of(down);
  const int64_t vectors = ceil_div(output_channels(params), vector);
  const int64_t planes = cut.planes * params.plane_spread;
  // Columns of one phase meet the same taps: lanes do not wait for each other.
  params.pairs = params.channels_last && params.tile.axis[2].phases == 2 ? int(ceil_div(cut.tile[2], 2)) : 0;
  const TileAxis& across = params.tile.axis[2];
  params.least_columns =
      !params.channels_last && across.phases == 2 ? std::max(across.phase[0].taps, across.phase[1].taps) : 0;
  params.strips = int(strips.count), params.positions = int(strips.positions);
  params.work = int(vectors * cut.tile[2] * planes * cut.tile[0] * strips.count * down.phases);
  params.by_vectors = Divisor(vectors), params.by_columns = Divisor(cut.tile[2]);
  params.by_planes = Divisor(planes), params.by_depth = Divisor(cut.tile[0]);
  params.by_spacing = Divisor(down.spacing);
  params.by_taps = Divisor(params.taps), params.by_filters = Divisor(p.k);
  params.by_spread = Divisor(params.spread), params.by_summed = Divisor(params.summed);
}
// ---- what it takes ----

// Of one strip, in instructions of a warp; its loads from shared memory take a cycle of the SM each.
struct StripWork {
  double instructions = 0, loads = 0;
};

StripWork strip_work(const ConvProblem& p, const DepthwiseTiling& tiling, double result_instructions) {
  const TileAxis* axis = tiling.params.tile.axis;
  const bool converts = size_of(p.dtype) == 2;
  const int vector = tiling.vector, taps = tiling.strip_taps;
  StripWork work;
  const auto mean_taps = [&](const TileAxis& a) { return double(a.phase[0].taps + a.phase[1].taps) / a.phases; };
  const auto pass = [&](double count, int some) {
    const double rows = (strip - 1) * tiling.step + some, columns = mean_taps(axis[0]) * mean_taps(axis[2]) * count;
    work.loads += columns * (rows + some * vector);
    work.instructions += columns * (12 + rows * (2 + (converts ? vector : 0)) + some * vector * (1 + strip));
    work.instructions += mean_taps(axis[0]) * count * 3 * rows;
  };
  for (int f = 0; f < axis[1].phases; ++f) {
    pass(double(axis[1].phase[f].taps / taps) / axis[1].phases, taps);
    pass(double(axis[1].phase[f].taps % taps) / axis[1].phases, 1);
  }
  work.loads *= tiling.params.summed, work.instructions *= tiling.params.summed;
  work.instructions += 100 + strip * result_instructions;
  return work;
}

// Cycles of the busiest SM.
double cycles_of(const ConvProblem& p, const DepthwiseTiling& tiling) {
  return std::ceil(double(tiling.blocks) / h100.multiprocessors) * block_cycles(p, tiling, 20 + 6 * tiling.vector);
}

// ---- the choice ----

std::vector<int64_t> some_channels(const ConvProblem& p) {
  const int64_t words = ceil_div(p.c * size_of(p.dtype), 4);
  if (p.layout != Layout::nhwc) return {1};
  std::vector<int64_t> found;
  if (words <= bank_words) found.push_back(words);
  for (int64_t some : {32, 24, 16, 8, 4})
    if (some < words) found.push_back(some);
  return found;
}

// Tiles of an axis: all of it, or `unit` outputs times powers of two, and equal parts of it in such units.
std::vector<int64_t> some_tiles(const TileAxis& a, int64_t unit) {
  std::vector<int64_t> found{a.out_extent};
  unit *= a.phases;
  for (int64_t parts = 2; parts <= 16; ++parts) {
    const int64_t tile = round_up(ceil_div(a.out_extent, parts), unit);
    if (tile < found.back()) found.push_back(tile);
  }
  if (unit < found.back()) found.push_back(unit);
  return found;
}

// Whole planes that start where a sector does.
std::vector<int64_t> some_planes(const ConvProblem& p, const TileAxes& axes, const Cut& cut) {
  std::vector<int64_t> found{1};
  for (int i = 0; i < 3; ++i)
    if (cut.tile[i] < axes.axis[i].out_extent) return found;
  const int64_t outer = p.layout == Layout::nhwc ? p.n : p.n * p.c;
  for (int64_t planes = 2; planes <= 64 && planes / 2 < outer; planes *= 2) found.push_back(planes);
  return found;
}

// The least shared memory that any cut takes.
int64_t least_shared(const ConvProblem& p, Pass pass, const TileAxes& axes) {
  int64_t least = largest_grid;
  visit_cuts(p, axes, [&](const Cut& cut) { least = std::min(least, cut_up(p, pass, axes, cut).shared_bytes); });
  return least;
}

}  // namespace

DepthwiseTiling cut_up(const ConvProblem& p, Pass pass, const TileAxes& axes, const Cut& cut) {
  const bool last = p.layout == Layout::nhwc;
  const int64_t element = size_of(p.dtype), several = p.k_per_group();
  DepthwiseTiling tiling;
  tiling.vector = vector_of(p);
  tiling.step = axes.axis[1].step, tiling.strip_taps = strip_taps_of(axes.axis[1]);
  DepthwiseTiledParams& params = tiling.params;
  params.channels_last = last;
  params.taps = int(volume(p.filter)), params.filter_pitch = params.taps | 1;
  params.filter_rows = int(p.filter[axes.order[1]]), params.filter_columns = int(p.filter[axes.order[2]]);
  DepthwiseTile& t = params.tile;
  params.spread = int(pass == Pass::fprop ? several : 1), params.summed = int(several / params.spread);
  params.plane_spread = last ? 1 : params.spread;
  const int64_t outputs = pass == Pass::fprop ? p.k : p.c;
  params.outputs = int(last ? outputs : 1), params.by_channels = Divisor(outputs);
  params.plane_step = int(plane_step_of(p, cut)), params.plane_mask = params.plane_step > 1 ? int(cut.planes) - 1 : -1;
  const int64_t patch = lay_out(p, axes, cut, params.summed, t, params.plane_step);
  params.filters = (last ? t.chunk : t.planes) * params.spread;
  set_work(params, p, cut, tiling.vector);
  const int64_t filters =
      round_up(int64_t(params.filters) * params.filter_pitch * accumulator_bytes(p.dtype), copy_bytes);
  params.patch_bytes = int(filters);
  params.out_bytes = int(round_up(filters + patch, copy_bytes));
  tiling.shared_bytes = round_up(filters + patch, copy_bytes);
  params.staged_out = !last && cut.tile[2] == t.axis[2].out_extent && cut.tile[2] * element % sector_bytes != 0;
  if (params.staged_out) {
    const int64_t slab = cut.tile[1] * cut.tile[2];
    params.by_slab = Divisor(slab);
    params.out_pitch = int(next_bank(cut.tile[0] * slab, cut.tile[2], bank_words, 1, params.plane_step));
    tiling.shared_bytes += cut.planes * params.spread * params.out_pitch * accumulator_bytes(p.dtype);
  }
  tiling.blocks = t.by_channel_blocks.value * ceil_div(t.outer, t.planes);
  for (const TileAxis& a : t.axis) tiling.blocks *= tiles_of(a);
  tiling.staged_bytes = staged_bytes(p, t), tiling.stored_bytes = stored_bytes(p, params);
  return tiling;
}

// Four warps issue at once.
double block_cycles(const ConvProblem& p, const DepthwiseTiling& tiling, double result_instructions) {
  const DepthwiseTiledParams& params = tiling.params;
  const StripWork work = strip_work(p, tiling, result_instructions);
  const double warps = double(ceil_div(params.work, threads)) * threads / 32;
  const double copies =
      double(params.tile.planes) * params.tile.axis[0].patch * params.tile.axis[1].patch * params.tile.row_copies;
  return warps * std::max(work.instructions / 4, work.loads) + copies / 32 * 5 + 200;
}

void set_tensors(DepthwiseTiledParams& params, const ConvProblem& p, Pass pass, const TileAxes& axes,
                 const PlanOptions& options) {
  GatherParams& g = params.gather;
  set_strides(g, p, pass == Pass::dgrad), set_epilogue(g, options);
  if (axes.order[1] != 1) {
    std::swap(g.source_strides.axis[1], g.source_strides.axis[2]);
    std::swap(g.out_strides.axis[1], g.out_strides.axis[2]);
  }
  const bool last = params.channels_last;
  params.tile.outer_stride = last ? g.source_strides.batch : g.source_strides.channel;
  params.out_stride = last ? g.out_strides.batch : g.out_strides.channel;
}

Cost tiling_cost(const ConvProblem& p, Pass pass, const DepthwiseTiling& tiling, const PlanOptions& options) {
  const double element = double(size_of(p.dtype)), blocks = double(tiling.blocks);
  const double x = double(p.x_elements()) * element, y = double(p.y_elements()) * element;
  const double source = pass == Pass::dgrad ? y : x, out = pass == Pass::dgrad ? x : y;
  const double rims = std::max(0.0, tiling.staged_bytes - source) + std::max(0.0, tiling.stored_bytes - out);
  Cost cost{};
  cost.flops = p.flops(pass);
  cost.bytes = cost.l2_bytes = traffic(p, pass, options) + rims;
  cost.cycles = cycles_of(p, tiling);
  set_occupancy(cost, blocks, {threads, depthwise_tiled.count, int(tiling.shared_bytes)});
  // Memory is kept busy by blocks that load while others compute.
  const double resident = std::min(blocks / h100.multiprocessors, double(cost.blocks_per_sm));
  const double flying = resident * source / blocks;
  const double busy = std::min({1.0, flying / 32e3 + 0.1, blocks / h100.multiprocessors});
  const double memory = cost.bytes / (h100.bytes_per_second * busy), work = cost.cycles / h100.hertz;
  cost.microseconds = h100.launch_microseconds + 1e6 * (std::max(memory, work) + 0.1 * std::min(memory, work));
  return cost;
}

std::string refuse_axes(const ConvProblem& p, const TileAxes& axes) {
  for (int i = 0; i < 3; ++i) {
    const TileAxis& a = axes.axis[i];
    if (a.phases > 2 || (i == 1 && a.step > 2))
      return concat("strides of 1 and 2 are built, here ", p.stride[axes.order[i]]);
  }
  return "";
}

std::string refuse_tiling(const ConvProblem& p, Pass pass) {
  const TileAxes axes = tile_axes(p, pass);
  if (auto reason = refuse_axes(p, axes); !reason.empty()) return reason;
  const int64_t least = least_shared(p, pass, axes);
  if (least > tile_shared_limit)
    return concat("the windows of its smallest tile take ", least, " bytes of shared memory, of ", tile_shared_limit);
  if (tiling_of(p, pass, {}).blocks > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

DepthwiseTiling tiling_of(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const TileAxes axes = tile_axes(p, pass);
  DepthwiseTiling best;
  double least = 0;
  visit_cuts(p, axes, [&](const Cut& cut) {
    const DepthwiseTiling tiling = cut_up(p, pass, axes, cut);
    if (tiling.shared_bytes > tile_shared_limit) return;
    const Cost cost = tiling_cost(p, pass, tiling, {});  // with or without a residual, one cut
    const double price = cost.microseconds + traffic_weight * 1e6 * cost.bytes / h100.bytes_per_second;
    if (best.blocks == 0 || price < least) best = tiling, least = price;
  });
  set_tensors(best.params, p, pass, axes, options);
  return best;
}

TileAxes tile_axes(const ConvProblem& p, Pass pass) {
  TileAxes found;
  if (p.layout == Layout::nhwc && p.in[1] == 1 && p.out[1] == 1 && p.filter[1] == 1)
    std::swap(found.order[1], found.order[2]);
  for (int i = 0; i < 3; ++i)
    found.axis[i] = tile_axis(axis_of(p, found.order[i], pass == Pass::dgrad), pass == Pass::dgrad);
  return found;
}

Strips strips_of(const TileAxis& down) {
  const int64_t positions = ceil_div(down.tile, down.phases), span = int64_t(strip) * down.spacing;
  const int64_t whole = ceil_div(positions, span) - 1;
  return {whole * down.spacing + std::min<int64_t>(down.spacing, positions - whole * span), positions};
}

int64_t lay_out(const ConvProblem& p, const TileAxes& axes, const Cut& cut, int64_t per, DepthwiseTile& t,
                int64_t plane_step) {
  const bool last = p.layout == Layout::nhwc;
  const int64_t element = size_of(p.dtype), bank_elements = bank_words * 4 / element;
  t.outer = last ? p.n : p.n * p.c * per, t.planes = int(last ? cut.planes : cut.planes * per);
  t.channels = last ? int(p.c * per) : 1, t.chunk = last ? int(cut.words * 4 / element * per) : 1;
  // Channels first, patches start where a copy can.
  const int64_t width = axes.axis[2].source_extent * element;
  t.pad_mode = p.pad_mode;
  t.aligned = last || p.pad_mode != PadMode::zeros ? 1 : std::max(1, int(std::gcd(width, copy_bytes) / element));
  for (int i = 0; i < 3; ++i)
    t.axis[i] = axes.axis[i], set_tile(t.axis[i], cut.tile[i], i == 2 ? t.aligned : 1, p.pad_mode);
  t.by_rows = Divisor(t.axis[1].patch), t.by_slices = Divisor(t.axis[0].patch);
  t.by_channel_blocks = Divisor(last ? ceil_div(t.channels, t.chunk) : 1);
  int64_t columns = t.axis[2].patch;
  // Every second column: those together, or lanes meet in banks (two-byte columns do not).
  t.half = t.axis[2].step == 2 && t.chunk * element >= 4 ? int(ceil_div(columns, 2)) : 0;
  t.by_halves = last && t.half > 0, t.copies_unit = 1;
  if (t.half > 0) columns = 2 * t.half;
  t.copy_bytes = int(copy_unit(p, t));
  const int64_t unit = t.copy_bytes / element;
  const int64_t row_pitch = t.half > 0 && !last ? split_rows(t, cut) : round_up(columns * t.chunk, unit);
  set_copies(t, last, p.dtype, nullptr);
  // Lanes that run on into the next plane find the next bank there.
  int64_t row = ceil_div(cut.tile[2] * (t.half > 0 ? 1 : t.axis[2].step), t.axis[2].phases) * t.chunk;
  // Lanes that do not fill the banks leave one free: rows share no word, those of two phases reach one further.
  if (!last && (t.axis[2].phases == 2 || (element == 2 && t.axis[2].step == 1)))
    row = (ceil_div(row * element, 4) + 1) * 4 / element;
  int64_t pitch = row_pitch * t.axis[1].patch * t.axis[0].patch;
  if (t.planes > 1) pitch = next_bank(pitch, row, bank_elements, unit, plane_step);
  const int64_t bytes = (row_pitch + pitch * t.planes) * element;
  if (bytes > tile_shared_limit) return bytes;  // nobody will ask for more
  t.row_pitch = int(row_pitch), t.slice_pitch = int(t.axis[1].patch * row_pitch), t.plane_pitch = int(pitch);
  return bytes;
}

double staged_bytes(const ConvProblem& p, const DepthwiseTile& t) {
  const auto patches = [&](int i) {
    const TileAxis& a = t.axis[i];
    return Pieces{a.source_extent, a.patch, i == 2 ? a.origin & -t.aligned : a.origin, a.advance,
                  tiles_of(a) * a.patch};
  };
  return sectors_of(size_of(p.dtype), {equal_pieces(t.channels, t.chunk), patches(2), patches(1), patches(0),
                                       equal_pieces(t.outer, t.planes)});
}

void visit_cuts(const ConvProblem& p, const TileAxes& axes, const std::function<void(const Cut&)>& visit) {
  const int64_t sector = p.layout == Layout::nhwc ? 1 : sector_bytes / size_of(p.dtype);
  Cut cut{};
  for (int64_t words : some_channels(p)) {
    cut.words = words;
    for (int64_t w : some_tiles(axes.axis[2], sector)) {
      cut.tile[2] = w;
      for (int64_t h : some_tiles(axes.axis[1], strip)) {
        cut.tile[1] = h;
        for (int64_t d : some_tiles(axes.axis[0], 1)) {
          cut.tile[0] = d;
          for (int64_t planes : some_planes(p, axes, cut)) cut.planes = planes, visit(cut);
        }
      }
    }
  }
}

void set_copies(DepthwiseTile& t, bool channels_last, DType dtype, const void* source) {
  const int64_t element = size_of(dtype);
  while (!aligned(source, t.copy_bytes)) t.copy_bytes = t.copy_bytes == 16 ? 4 : int(element);
  const int elements = int(t.copy_bytes / element), channels = channels_last ? t.chunk / elements : 1;
  t.copy_columns = channels_last ? 1 : elements;
  t.row_copies = channels_last ? t.axis[2].patch * channels : int(ceil_div(t.axis[2].patch, elements));
  t.row_copies = int(round_up(t.row_copies, t.copies_unit));
  t.by_row_copies = Divisor(t.row_copies), t.by_channel_copies = Divisor(channels);
}

}  // namespace fastconv::planner
