// pool_staged: how large a box of results a block makes, and whether what it reads fits shared memory.
#include "planner/gpu_pool.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

// Shared memory of a block. The least that keeps the rims of the tiles, which are read twice, below a few per cent.
constexpr int64_t budgets[] = {24 * 1024, 48 * 1024, 96 * 1024}, staged_limit = 96 * 1024;
constexpr double rims_allowed = 1.025;

struct Staging {
  Axes tile, patch;
  StagedPoolParams::Runs runs = StagedPoolParams::single_rows;
  int64_t planes = 1, phases = 1, bytes = 0, blocks = 0;

  int64_t run_count() const {
    if (runs == StagedPoolParams::planes_at_once) return 1;
    return planes * patch[0] * (runs == StagedPoolParams::single_rows ? patch[1] : 1);
  }
  int64_t run_elements() const {
    if (runs == StagedPoolParams::planes_at_once) return planes * volume(patch);
    return (runs == StagedPoolParams::single_rows ? 1 : patch[1]) * patch[2];
  }
};

const Axes& written_by(const PoolProblem& p, Pass pass) { return pass == Pass::dgrad ? p.in : p.out; }
const Axes& read_by(const PoolProblem& p, Pass pass) { return pass == Pass::dgrad ? p.out : p.in; }

int64_t up_to(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }
// A run and what lies beside it in its first sector and its last vector (Staged in kernels/pool_staged.h).
int64_t pitch_of(int64_t run_elements, int64_t vector) { return (run_elements + 3 * vector - 2) / vector * vector; }

int64_t value_bytes(const PoolProblem& p) {
  return is_average(p) ? std::max<int64_t>(4, size_of(p.dtype)) : size_of(p.dtype);
}

// A warp that reduces neighbouring rows stores to two phases: half the banks apart.
int64_t phase_pitch(const PoolProblem& p, const Staging& s) {
  const int64_t least = ceil_div(s.patch[1], s.phases) * s.tile[2], turn = 128 / value_bytes(p);
  return s.phases == 1 ? least : up_to(least + turn / 2, turn) - turn / 2;
}

// And threads whose windows lie in two slices read on as if they lay in one.
int64_t slice_pitch(const PoolProblem& p, const Staging& s) {
  const int64_t least = s.phases * phase_pitch(p, s), turn = 128 / value_bytes(p), windows = s.tile[1] * s.tile[2];
  return s.phases == 1 || s.planes * s.tile[0] == 1 ? least : least + ((windows - least) % turn + turn) % turn;
}

int64_t bytes_of(const PoolProblem& p, Pass pass, const Staging& s) {
  const int64_t element = size_of(p.dtype);
  int64_t bytes = s.run_count() * pitch_of(s.run_elements(), 16 / element) * element;
  if (pass == Pass::dgrad) {
    if (is_average(p)) return bytes;
    return bytes + s.run_count() * pitch_of(s.run_elements(), 16 / p.offset_bytes()) * p.offset_bytes();
  }
  const int64_t reduced = s.planes * s.patch[0] * slice_pitch(p, s);
  return bytes + up_to(reduced * value_bytes(p), 16) + (is_average(p) ? 0 : up_to(reduced, 16));
}

void set_patch(const PoolProblem& p, Pass pass, Staging& s) {
  const Axes &written = written_by(p, pass), &read = read_by(p, pass);
  for (int i = 0; i < 3; ++i) s.patch[i] = s.tile[i] == written[i] ? read[i] : reach_of(p, pass, i, s.tile[i]);
  s.runs = s.patch == read         ? StagedPoolParams::planes_at_once
           : s.patch[2] == read[2] ? StagedPoolParams::rows_of_a_slice
                                   : StagedPoolParams::single_rows;
  s.phases = pass == Pass::dgrad || p.per[1] > 1 || p.out[1] == 1 ? 1 : std::min(p.stride[1], s.patch[1]);
  s.bytes = bytes_of(p, pass, s);
}

// The largest box of results whose operands fit: whole planes if possible, else fewer slices, rows, columns.
Staging staging_within(const PoolProblem& p, Pass pass, int64_t budget) {
  const Axes& written = written_by(p, pass);
  Staging s{written, {}};
  set_patch(p, pass, s);
  for (int i = 0; i < 3; ++i) {
    for (int64_t parts = 2; s.bytes > budget && s.tile[i] > 1; parts *= 2) {
      s.tile[i] = std::max<int64_t>(1, ceil_div(written[i], parts));
      set_patch(p, pass, s);
    }
  }
  if (s.tile == written) {
    const int64_t spread = std::max<int64_t>(1, pieces(p) / int64_t(4 * h100.multiprocessors));
    s.planes = std::max<int64_t>(1, std::min({budget / s.bytes, ceil_div(2048, volume(written)), spread}));
    for (int64_t whole = 32; whole > 4; whole /= 2)  // sectors, whatever a plane has, or nearly
      if (s.planes > whole) s.planes -= s.planes % whole;
    while ((s.bytes = bytes_of(p, pass, s)) > budget && s.planes > 1) s.planes -= std::min<int64_t>(8, s.planes - 1);
  }
  s.blocks = ceil_div(pieces(p), s.planes);
  for (int i = 0; i < 3; ++i) s.blocks *= ceil_div(written[i], s.tile[i]);
  return s;
}

double rims(const PoolProblem& p, Pass pass, const Staging& s) {
  return double(s.blocks * s.planes) * double(volume(s.patch)) / double(pieces(p) * volume(read_by(p, pass)));
}

Staging staging_of(const PoolProblem& p, Pass pass) {
  Staging s;
  for (const int64_t budget : budgets) {
    s = staging_within(p, pass, budget);
    if (s.bytes <= budget && (s.planes > 1 || rims(p, pass, s) <= rims_allowed)) break;
  }
  return s;
}

std::string refuse_staged(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::fprop && pass != Pass::dgrad) return concat("computes fprop and dgrad, not ", name_of(pass));
  if (p.layout != Layout::nchw) return "is for channels first; pool_march stages channels last";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (pass == Pass::fprop && !is_average(p) && p.window[2] > 255)
    return "keeps a row's winner in a byte, and the windows' rows have more than 255 taps";
  const Staging s = staging_of(p, pass);
  if (s.bytes > staged_limit)
    return concat("the operands of ", volume(s.tile), " results take ", s.bytes, " bytes of shared memory, of ",
                  staged_limit);
  if (s.blocks > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

Cost cost_staged(const PoolProblem& p, Pass pass, const PlanOptions&) {
  const Staging s = staging_of(p, pass);
  // Rims of neighbouring tiles are read twice, mostly from L2.
  const double once = double(pieces(p) * volume(read_by(p, pass)) * size_of(p.dtype));
  const double twice = std::max(0.0, rims(p, pass, s) - 1) * once;
  const int registers = pass == Pass::fprop ? pool_staged.count : pool_staged_backward.count;
  Cost cost = roofline(p.dtype, {double(s.blocks),
                                 0,
                                 1,
                                 p.bytes(pass) + twice / 2,
                                 0,
                                 p.bytes(pass) + twice,
                                 {pool_threads, registers, int(s.bytes)}});
  // Rows longer than a few elements meet in the banks, and leave threads without a row.
  if (pass == Pass::fprop && p.out[2] == 1) cost.microseconds += 0.05 * double(p.window[2]);
  return cost;
}

struct StagedPoolRun {
  PoolProblem problem;
  Pass pass;
  StagedPoolParams params;
  int64_t blocks, bytes;
  int device;

  void operator()(const PoolArgs& args) const {
    const device::DeviceScope scope(device);
    StagedPoolParams now = params;
    set_addresses(now.pool, args);
    const bool vectors = aligned(args.src, 16) && (pass == Pass::fprop || aligned(args.offsets, 16));
    const char* name = pass == Pass::fprop ? "pool_staged" : "pool_staged_backward";
    auto launch = one_dimensional(name, blocks, pool_threads, args.stream);
    launch.shared_bytes = size_t(bytes);
    name_pool_regions(launch, problem, pass, args);
    visit_dtype(problem.dtype, [&](auto t) {
      launch_staged_pool<decltype(t)>(work_of(pass), is_average(problem), vectors, launch, now);
    });
  }
};

Prepared<PoolProblem> prepare_staged(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  const Staging s = staging_of(p, pass);
  const Axes &written = written_by(p, pass), &read = read_by(p, pass);
  StagedPoolParams params{};
  params.pool = pool_params(p, pass, false);
  params.planes = int(s.planes), params.runs = s.runs;
  params.run_count = int(s.run_count()), params.run_elements = int(s.run_elements());
  params.phases = int(s.phases), params.phase_pitch = int(phase_pitch(p, s)),
  params.slice_pitch = int(slice_pitch(p, s));
  params.swizzle = pass == Pass::fprop && size_of(p.dtype) >= 4 && p.per[2] == 1 && p.stride[2] % 2 == 0;
  params.lanes_of_row = s.tile[2] > 16 ? int(up_to(s.tile[2], 32)) : 1;
  while (params.lanes_of_row < s.tile[2]) params.lanes_of_row *= 2;
  params.by_lanes = Divisor(params.lanes_of_row);
  params.source_elements = pieces(p) * volume(read);
  for (int i = 0; i < 3; ++i) {
    params.tile[i] = int(s.tile[i]), params.patch[i] = int(s.patch[i]), params.source[i] = int(read[i]);
    params.by_tile[i] = Divisor(params.tile[i]), params.by_tiles[i] = Divisor(ceil_div(written[i], s.tile[i]));
  }
  params.by_patch_rows = Divisor(params.patch[1]), params.by_patch_slices = Divisor(params.patch[0]);
  params.by_phases = Divisor(params.phases);
  Prepared<PoolProblem> prepared;
  prepared.launch = StagedPoolRun{p, pass, params, s.blocks, s.bytes, options.device};
  prepared.detail = concat("tile ", s.tile[0], "x", s.tile[1], "x", s.tile[2], " of ", s.planes, " planes, grid ",
                           s.blocks, ", ", s.bytes, " bytes shared");
  return prepared;
}

}  // namespace

Kernel<PoolProblem> staged_pool_kernel() {
  return {"pool_staged",  "channels first, forward and backward: boxes of operands through shared memory",
          refuse_staged,  cost_staged,
          prepare_staged, rows_first};
}

}  // namespace fastconv::planner
