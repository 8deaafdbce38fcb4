// The pooling kernels as the planner sees them: which problems they can address, what they cost, and their parameters.
#include "kernels/pool_params.h"
#include "planner/cost.h"
#include "planner/gpu.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

int vector_of(DType dtype) { return int(16 / size_of(dtype)); }
bool is_average(const PoolProblem& p) { return p.kind == PoolKind::average; }

// The tensor whose elements the threads are laid over: what the pass writes.
const Axes& written(const PoolProblem& p, Pass pass) { return pass == Pass::dgrad ? p.in : p.out; }

int64_t pieces(const PoolProblem& p) { return p.layout == Layout::nhwc ? p.n : p.n * p.c; }
int64_t piece_channels(const PoolProblem& p) { return p.layout == Layout::nhwc ? p.c : 1; }

bool channel_vectors(const PoolProblem& p) { return p.layout == Layout::nhwc && p.c % vector_of(p.dtype) == 0; }

int64_t units_of(const PoolProblem& p, Pass pass, bool vectors) {
  return volume(written(p, pass)) * piece_channels(p) / (vectors ? vector_of(p.dtype) : 1);
}

int64_t blocks_of(const PoolProblem& p, Pass pass, bool vectors) {
  return ceil_div(pieces(p) * units_of(p, pass, vectors), pool_threads);
}

// ---- refuse ----

std::string refuse_size(const PoolProblem& p) {
  if (p.n == 0) return "the tensors are empty: there is nothing to launch";
  for (int i = 0; i < 3; ++i) {
    if (p.in[i] + 2 * p.pad[i] + p.dilation[i] * (p.window[i] - 1) > largest_coordinate)
      return concat("spatial axis ", i - (3 - p.rank), " has coordinates beyond 2^30");
    if (p.per[i] > 1 && p.stride[i] > (largest_coordinate - p.per[i]) / (p.out[i] + 1))
      return concat("spatial axis ", i - (3 - p.rank), " has adaptive windows whose numerators go beyond 2^30");
  }
  if (volume(p.window) > largest_coordinate) return "a window has more than 2^30 taps";
  if (std::max(volume(p.in), volume(p.out)) > largest_coordinate)
    return "one channel of a sample has more than 2^30 positions";
  return "";
}

std::string refuse_direct(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass == Pass::gather && is_average(p)) return "the gather belongs to max pooling";
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::gather)
    return concat("computes fprop, dgrad and gather, not ", name_of(pass));
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  // Misaligned addresses are walked by elements, so that these are what is counted.
  if (units_of(p, pass, false) > largest_grid - pool_threads) return "one sample has more than 2^31 elements";
  if (blocks_of(p, pass, false) > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

// ---- parameters ----

PoolParams pool_params(const PoolProblem& p, Pass pass, bool vectors) {
  PoolParams params{};
  params.wide_offsets = p.offset_bytes() == 4;
  params.count_include_pad = p.count_include_pad;
  params.divisor_override = p.divisor_override;
  params.outer = pieces(p);
  params.channels = int(piece_channels(p));
  params.channel_vectors = params.channels / (vectors ? vector_of(p.dtype) : 1);
  params.by_channel_vectors = Divisor(params.channel_vectors);
  params.units = int(units_of(p, pass, vectors));
  params.by_units = Divisor(params.units);
  for (int i = 0; i < 3; ++i) {
    PoolAxis& a = params.axis[i];
    a.in = int(p.in[i]), a.out = int(p.out[i]), a.window = int(p.window[i]), a.pad = int(p.pad[i]);
    // With one window the stride means nothing, with one tap the dilation.
    a.stride = int(std::min(p.stride[i], largest_coordinate)), a.per = int(p.per[i]);
    a.dilation = p.window[i] == 1 ? 1 : int(p.dilation[i]);
    a.by_in = Divisor(a.in), a.by_out = Divisor(a.out), a.by_window = Divisor(a.window);
    a.by_stride = Divisor(a.stride), a.by_per = Divisor(a.per), a.by_dilation = Divisor(a.dilation);
  }
  return params;
}

void name_pool_regions(device::Launch& launch, const PoolProblem& p, Pass pass, const PoolArgs& args) {
  const int64_t element = size_of(p.dtype), x = element * p.x_elements(), y = element * p.y_elements();
  const bool fprop = pass == Pass::fprop, dgrad = pass == Pass::dgrad;
  name_regions(launch, {{args.src, dgrad ? y : x,
                         dgrad   ? "gy"
                         : fprop ? "x"
                                 : "ggx"},
                        {args.dst, dgrad ? x : y, "output"},
                        {args.offsets, p.y_elements() * p.offset_bytes(), "offsets"},
                        {args.indices, p.y_elements() * 8, "indices"}});
}

// Misaligned addresses (a slice of a bigger buffer) are walked by elements.
bool vectors_allowed(const PoolArgs& args, int64_t offset_bytes) {
  return aligned(args.src, 16) && aligned(args.dst, 16) &&
         aligned(args.offsets, std::min<int64_t>(16, 8 * offset_bytes)) && aligned(args.indices, 16);
}

struct DirectPoolRun {
  PoolProblem problem;
  Pass pass;
  PoolParams by_vector, by_element;
  bool vectors;
  int device;

  void operator()(const PoolArgs& args) const {
    const device::DeviceScope scope(device);
    const bool now_vectors = vectors && vectors_allowed(args, problem.offset_bytes());
    PoolParams now = now_vectors ? by_vector : by_element;
    now.src = args.src, now.dst = args.dst, now.offsets = args.offsets, now.indices = args.indices;
    const char* name = pass == Pass::fprop ? "pool_forward" : pass == Pass::dgrad ? "pool_backward" : "pool_gather";
    auto launch = one_dimensional(name, blocks_of(problem, pass, now_vectors), pool_threads, args.stream);
    name_pool_regions(launch, problem, pass, args);
    const PoolWork work = pass == Pass::fprop   ? PoolWork::forward
                          : pass == Pass::dgrad ? PoolWork::backward
                                                : PoolWork::gather;
    visit_dtype(problem.dtype,
                [&](auto t) { launch_pool<decltype(t)>(work, is_average(problem), now_vectors, launch, now); });
  }
};

Prepared<PoolProblem> prepare_direct(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const bool vectors = channel_vectors(p);
  Prepared<PoolProblem> prepared;
  prepared.launch =
      DirectPoolRun{p, pass, pool_params(p, pass, vectors), pool_params(p, pass, false), vectors, options.device};
  prepared.detail = concat("grid ", blocks_of(p, pass, vectors), ", ",
                           vectors                    ? concat(vector_of(p.dtype), " channels a thread")
                           : p.layout == Layout::nhwc ? "lanes along channels"
                                                      : "lanes along the width");
  return prepared;
}

Cost cost_direct(const PoolProblem& p, Pass pass, const PlanOptions&) {
  // Channels first, a warp's request for one tap of its windows spreads over stride times the bytes.
  const double spread =
      p.layout == Layout::nchw && pass == Pass::fprop ? 2.0 * double(std::min<int64_t>(p.stride[2], 8)) : 1;
  const double scalar = p.layout == Layout::nhwc && !channel_vectors(p) ? 1.5 : 1;
  const int registers = pass == Pass::fprop   ? pool_forward.count
                        : pass == Pass::dgrad ? pool_backward.count
                                              : pool_gather.count;
  return roofline(p.dtype, {double(blocks_of(p, pass, channel_vectors(p))),
                            0,
                            1,
                            p.bytes(pass) * spread * scalar,
                            0,
                            0,
                            {pool_threads, registers, 0}});
}

// ---- staged ----

// Shared memory of a block: several blocks fit an SM, and no attribute needs to be set.
constexpr int64_t staged_bytes = 24 * 1024, staged_limit = 48 * 1024;

struct Staging {
  Axes tile, patch;
  int64_t planes, bytes;
};

Axes patch_of(const PoolProblem& p, const Axes& tile) {
  Axes patch;
  for (int i = 0; i < 3; ++i) {
    if (p.per[i] > 1) {
      patch[i] = ceil_div(tile[i] * p.stride[i] + p.per[i] - 1, p.per[i]);
    } else {
      patch[i] = (tile[i] - 1) * (p.out[i] == 1 ? 1 : p.stride[i]) + p.dilation[i] * (p.window[i] - 1) + 1;
    }
  }
  // Its first column is a multiple of the vector, and so is the first output of a tile.
  const int64_t v = vector_of(p.dtype), lead = p.per[2] > 1 ? v - 1 : (v - p.pad[2] % v) % v;
  patch[2] = ceil_div(lead + patch[2], v) * v;
  return patch;
}

// The largest box of outputs whose inputs fit: whole planes if possible, else fewer slices, rows, columns.
Staging staging_of(const PoolProblem& p) {
  const int64_t v = vector_of(p.dtype), element = size_of(p.dtype);
  Staging s{p.out, {}, 1, 0};
  const auto bytes = [&] { return volume(s.patch = patch_of(p, s.tile)) * element; };
  for (int i = 0; i < 3; ++i) {
    // Tiles of columns start at multiples of the vector.
    const int64_t least = i == 2 ? std::min(v, p.out[2]) : 1;
    while (bytes() > staged_bytes && s.tile[i] > least) s.tile[i] = ceil_div(ceil_div(s.tile[i], 2), least) * least;
  }
  s.bytes = bytes();
  if (s.tile == p.out) {
    const int64_t spread = std::max<int64_t>(1, pieces(p) / int64_t(4 * h100.multiprocessors));
    s.planes = std::max<int64_t>(1, std::min({staged_bytes / s.bytes, ceil_div(1024, volume(p.out)), spread}));
    s.bytes *= s.planes;
  }
  return s;
}

int64_t staged_blocks(const PoolProblem& p, const Staging& s) {
  int64_t blocks = ceil_div(pieces(p), s.planes);
  for (int i = 0; i < 3; ++i) blocks *= ceil_div(p.out[i], s.tile[i]);
  return blocks;
}

std::string refuse_staged(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::fprop) return concat("computes fprop, not ", name_of(pass));
  if (p.layout != Layout::nchw) return "channels last needs no staging: neighbouring lanes read neighbouring channels";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  const Staging s = staging_of(p);
  if (s.bytes > staged_limit)
    return concat("the input of ", volume(s.tile), " windows takes ", s.bytes, " bytes of shared memory, of ",
                  staged_limit);
  if (staged_blocks(p, s) > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

Cost cost_staged(const PoolProblem& p, Pass pass, const PlanOptions&) {
  const Staging s = staging_of(p);
  // Rims of neighbouring tiles are read twice, mostly from L2.
  const double staged = double(staged_blocks(p, s)) * double(s.bytes), once = double(p.x_elements() * size_of(p.dtype));
  return roofline(p.dtype, {double(staged_blocks(p, s)),
                            0,
                            1,
                            p.bytes(pass) + std::max(0.0, staged - once) / 2,
                            0,
                            p.bytes(pass) + std::max(0.0, staged - once),
                            {pool_threads, pool_staged.count, int(s.bytes)}});
}

struct StagedPoolRun {
  PoolProblem problem;
  StagedPoolParams params;
  int64_t blocks, bytes;
  int device;

  void operator()(const PoolArgs& args) const {
    const device::DeviceScope scope(device);
    StagedPoolParams now = params;
    now.pool.src = args.src, now.pool.dst = args.dst, now.pool.offsets = args.offsets, now.pool.indices = args.indices;
    const bool vectors = problem.in[2] % vector_of(problem.dtype) == 0 && aligned(args.src, 16);
    now.patch_vectors = params.patch[2] / (vectors ? vector_of(problem.dtype) : 1);
    now.by_patch[2] = Divisor(now.patch_vectors);
    auto launch = one_dimensional("pool_staged", blocks, pool_threads, args.stream);
    launch.shared_bytes = size_t(bytes);
    name_pool_regions(launch, problem, Pass::fprop, args);
    visit_dtype(problem.dtype,
                [&](auto t) { launch_staged_pool<decltype(t)>(is_average(problem), vectors, launch, now); });
  }
};

Prepared<PoolProblem> prepare_staged(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const Staging s = staging_of(p);
  StagedPoolParams params{};
  params.pool = pool_params(p, pass, false);
  params.planes = int(s.planes);
  for (int i = 0; i < 3; ++i) {
    params.tile[i] = int(s.tile[i]), params.patch[i] = int(s.patch[i]);
    params.by_tile[i] = Divisor(params.tile[i]), params.by_patch[i] = Divisor(params.patch[i]);
    params.by_tiles[i] = Divisor(ceil_div(p.out[i], s.tile[i]));
  }
  Prepared<PoolProblem> prepared;
  prepared.launch = StagedPoolRun{p, params, staged_blocks(p, s), s.bytes, options.device};
  prepared.detail = concat("tile ", s.tile[0], "x", s.tile[1], "x", s.tile[2], " of ", s.planes, " planes, grid ",
                           staged_blocks(p, s), ", ", s.bytes, " bytes shared");
  return prepared;
}

}  // namespace

std::vector<Kernel<PoolProblem>> direct_pool_kernels() {
  return {{"pool_staged", "forward, channels first: input patches through shared memory", refuse_staged, cost_staged,
           prepare_staged},
          {"pool_direct", "any pass and layout: a thread a result, 16 bytes of channels each if channels last",
           refuse_direct, cost_direct, prepare_direct}};
}

}  // namespace fastconv::planner
