// pool_march and pool_global: which stretch of a plane a block takes, and how many threads share a global window.
#include "planner/gpu_pool.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

// ---- pool_march ----

constexpr int64_t march_budget = 40 * 1024, march_limit = 100 * 1024;
constexpr int64_t vectors_of_a_stretch = 8;  // 128 bytes

struct March {
  int64_t vectors, tile, patch, rows, batch, slots, bytes;
  int64_t chunks, tiles, segments, blocks;
};

int64_t march_bytes(const PoolProblem& p, Pass pass, const March& m) {
  const int64_t v = vector_of(p.dtype), tap = is_average(p) ? 0 : v;
  if (pass == Pass::dgrad) return m.slots * m.patch * m.vectors * (16 + tap);
  const int64_t value = is_average(p) ? v * std::max<int64_t>(4, size_of(p.dtype)) : 16;
  return 2 * m.batch * m.patch * m.vectors * 16 + m.slots * m.tile * m.vectors * (value + tap);
}

March march_of(const PoolProblem& p, Pass pass) {
  const Axes &written = pass == Pass::dgrad ? p.in : p.out, &read = pass == Pass::dgrad ? p.out : p.in;
  March m{};
  m.vectors = std::min(vectors_of_a_stretch, p.c / vector_of(p.dtype));
  m.chunks = ceil_div(p.c / vector_of(p.dtype), m.vectors);
  const int64_t span = pass == Pass::dgrad ? reach_of(p, pass, 1, 1) : p.dilation[1] * (p.window[1] - 1) + 1;
  // Stretches of equal width, as wide as fit the budget.
  for (m.tiles = 1;; m.tiles *= 2) {
    m.tile = ceil_div(written[2], m.tiles), m.tiles = ceil_div(written[2], m.tile);
    m.patch = m.tile == written[2] ? read[2] : reach_of(p, pass, 2, m.tile);
    m.batch = std::clamp<int64_t>(pool_threads / (m.patch * m.vectors), 1, read[1]);
    m.slots = std::min(span, read[1]) + (pass == Pass::dgrad ? 2 : 1) * m.batch;
    m.bytes = march_bytes(p, pass, m);
    if (m.bytes <= march_budget || m.tile <= 8) break;
  }
  // A plane is cut in segments of rows for the sake of idle multiprocessors, while that repeats few rows.
  m.segments = 1, m.rows = written[1];
  const int64_t stretches = pieces(p) * m.chunks * m.tiles;
  while (stretches * m.segments < int64_t(2 * h100.multiprocessors)) {
    const int64_t rows = ceil_div(written[1], 2 * m.segments);
    const int64_t repeated = reach_of(p, pass, 1, rows) * 2 * m.segments - read[1];
    if (rows < 2 || double(repeated) > 0.02 * double(read[1])) break;
    m.segments *= 2, m.rows = rows;
  }
  m.segments = ceil_div(written[1], m.rows);
  m.blocks = stretches * m.segments;
  return m;
}

std::string refuse_march(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::fprop && pass != Pass::dgrad) return concat("computes fprop and dgrad, not ", name_of(pass));
  if (p.layout != Layout::nhwc) return "is for channels last; pool_staged stages channels first";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (p.in[0] > 1 || p.window[0] > 1) return "marches down two dimensions, not three";
  if (!channel_vectors(p)) return concat("needs channels in multiples of ", vector_of(p.dtype));
  if (!is_average(p) && (pass == Pass::dgrad ? volume(p.window) : p.window[2]) > 255)
    return "keeps winners in a byte, and windows have more than 255 taps";
  const March m = march_of(p, pass);
  if (m.bytes > march_limit)
    return concat("rows of ", m.patch, " pixels take ", m.bytes, " bytes of shared memory, of ", march_limit);
  if (m.blocks > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

Cost cost_march(const PoolProblem& p, Pass pass, const PlanOptions&) {
  const March m = march_of(p, pass);
  const Axes& read = pass == Pass::dgrad ? p.out : p.in;
  const double rows = double(m.segments * reach_of(p, pass, 1, m.rows)) / double(read[1]);
  const double columns = double(m.tiles * m.patch) / double(read[2]);
  const double twice = std::max(0.0, rows * columns - 1) * double(p.n * p.c * volume(read) * size_of(p.dtype));
  const int registers = pass == Pass::fprop ? pool_march.count : pool_march_backward.count;
  Cost cost = roofline(p.dtype, {double(m.blocks),
                                 0,
                                 1,
                                 p.bytes(pass) + twice / 2,
                                 0,
                                 p.bytes(pass) + twice,
                                 {pool_threads, registers, int(m.bytes)}});
  // A barrier a batch: windows that do not overlap need none of this.
  cost.microseconds += 0.02 * (cost.microseconds - h100.launch_microseconds);
  if (pass == Pass::fprop && p.out[2] == 1) cost.microseconds += 0.05 * double(p.window[2]);
  return cost;
}

struct MarchPoolRun {
  PoolProblem problem;
  Pass pass;
  MarchPoolParams params;
  int64_t blocks, bytes;
  int device;
  Prepared<PoolProblem> misaligned;  // the same sums by elements

  void operator()(const PoolArgs& args) const {
    if (!vectors_allowed(args, problem.offset_bytes())) return misaligned.launch(args);
    const device::DeviceScope scope(device);
    MarchPoolParams now = params;
    set_addresses(now.pool, args);
    const char* name = pass == Pass::fprop ? "pool_march" : "pool_march_backward";
    auto launch = one_dimensional(name, blocks, pool_threads, args.stream);
    launch.shared_bytes = size_t(bytes);
    name_pool_regions(launch, problem, pass, args);
    visit_dtype(problem.dtype,
                [&](auto t) { launch_march_pool<decltype(t)>(work_of(pass), is_average(problem), launch, now); });
  }
};

Prepared<PoolProblem> prepare_march(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const March m = march_of(p, pass);
  MarchPoolParams params{};
  params.pool = pool_params(p, pass, true);
  params.vectors = int(m.vectors), params.tile = int(m.tile), params.patch = int(m.patch);
  params.rows = int(m.rows), params.batch = int(m.batch), params.slots = int(m.slots);
  params.by_vectors = Divisor(m.vectors), params.by_tile = Divisor(m.tile), params.by_patch = Divisor(m.patch);
  params.by_slots = Divisor(m.slots), params.by_chunks = Divisor(m.chunks), params.by_tiles = Divisor(m.tiles);
  params.by_segments = Divisor(m.segments);
  Prepared<PoolProblem> prepared;
  prepared.launch =
      MarchPoolRun{p, pass, params, m.blocks, m.bytes, options.device, prepare_direct_pool(p, pass, options)};
  prepared.detail = concat("stretches of ", m.tile, " pixels by ", m.vectors * vector_of(p.dtype), " channels and ",
                           m.rows, " rows, ", m.batch, " at a time, grid ", m.blocks, ", ", m.bytes, " bytes shared");
  return prepared;
}

// ---- pool_global ----

struct Global {
  int64_t lanes, groups, windows, steps, chunks, blocks;
};

// Of the shape of a sample alone: so its sums do not depend on the batch.
Global global_of(const PoolProblem& p) {
  const int64_t v = vector_of(p.dtype), plane = volume(p.in);
  Global g{};
  if (p.layout == Layout::nchw) {
    g.lanes = 1, g.chunks = 1, g.steps = plane / v;
    g.groups = g.steps >= 4 * pool_threads ? pool_threads : 32;
    g.windows = pool_threads / g.groups;
    g.blocks = ceil_div(pieces(p), g.windows);
    return g;
  }
  g.steps = plane, g.windows = 1, g.lanes = 1;
  while (g.lanes < 8 && 2 * g.lanes <= p.c / v) g.lanes *= 2;
  g.groups = pool_threads / g.lanes;
  g.chunks = ceil_div(p.c / v, g.lanes);
  g.blocks = p.n * g.chunks;
  return g;
}

std::string refuse_global(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::fprop) return concat("computes fprop, not ", name_of(pass));
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (p.window != p.in || volume(p.out) != 1 || p.pad != Axes{0, 0, 0} || p.ceil_mode)
    return "is for one window, the whole plane";
  for (int i = 0; i < 3; ++i)
    if (p.window[i] > 1 && p.dilation[i] > 1) return "is for windows without dilation";
  const int64_t run = p.layout == Layout::nchw ? volume(p.in) : p.c;
  if (run % vector_of(p.dtype) != 0)
    return concat(p.layout == Layout::nchw ? "planes" : "channels", " of ", run, " elements are not whole vectors");
  if (global_of(p).blocks > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

int global_bytes(const PoolProblem& p) {
  return pool_threads * vector_of(p.dtype) * int(std::max<int64_t>(4, size_of(p.dtype)) + (is_average(p) ? 0 : 4));
}

Cost cost_global(const PoolProblem& p, Pass pass, const PlanOptions&) {
  const Global g = global_of(p);
  return roofline(
      p.dtype,
      {double(g.blocks), 0, 1, p.bytes(pass), 0, p.bytes(pass), {pool_threads, pool_global.count, global_bytes(p)}});
}

Prepared<PoolProblem> prepare_global(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const Global g = global_of(p);
  GlobalPoolParams params{};
  params.pool = pool_params(p, pass, p.layout == Layout::nhwc);
  params.lanes = int(g.lanes), params.groups = int(g.groups), params.windows = int(g.windows), params.steps = g.steps;
  params.by_lanes = Divisor(g.lanes), params.by_groups = Divisor(g.groups), params.by_chunks = Divisor(g.chunks);
  Prepared<PoolProblem> prepared;
  prepared.launch = [=, device = options.device](const PoolArgs& args) {
    const device::DeviceScope scope(device);
    GlobalPoolParams now = params;
    set_addresses(now.pool, args);
    const bool planar = p.layout == Layout::nchw;
    const bool vectors = planar ? aligned(args.src, 16) : vectors_allowed(args, p.offset_bytes());
    auto launch = one_dimensional("pool_global", g.blocks, pool_threads, args.stream);
    launch.shared_bytes = size_t(global_bytes(p));
    name_pool_regions(launch, p, Pass::fprop, args);
    visit_dtype(p.dtype, [&](auto t) { launch_global_pool<decltype(t)>(is_average(p), vectors, planar, launch, now); });
  };
  prepared.detail =
      concat(g.windows, " windows a block, ", g.groups, " groups of ", g.lanes, " threads each, grid ", g.blocks);
  return prepared;
}

}  // namespace

Kernel<PoolProblem> march_pool_kernel() {
  return {"pool_march",  "channels last, overlapping windows: rows through a ring in shared memory",
          refuse_march,  cost_march,
          prepare_march, rows_first};
}

Kernel<PoolProblem> global_pool_kernel() {
  return {"pool_global",  "forward of one window over the whole plane: many threads share it",
          refuse_global,  cost_global,
          prepare_global, planes_in_groups};
}

}  // namespace fastconv::planner
