// The pooling kernels as the planner sees them: the table, what they share, and pool_direct. The ones that stage are in
// gpu_pool_staged.cpp and gpu_pool_march.cpp.
#include "planner/gpu_pool.h"

#include "planner/registers.h"

namespace fastconv::planner {

using namespace kernels;

namespace {

// The tensor whose elements the threads are laid over: what the pass writes.
const Axes& written(const PoolProblem& p, Pass pass) { return pass == Pass::dgrad ? p.in : p.out; }

int64_t piece_channels(const PoolProblem& p) { return p.layout == Layout::nhwc ? p.c : 1; }

int64_t units_of(const PoolProblem& p, Pass pass, bool vectors) {
  return volume(written(p, pass)) * piece_channels(p) / (vectors ? vector_of(p.dtype) : 1);
}

int64_t blocks_of(const PoolProblem& p, Pass pass, bool vectors) {
  return ceil_div(pieces(p) * units_of(p, pass, vectors), pool_threads);
}

}  // namespace

// ---- shared ----

int64_t reach_of(const PoolProblem& p, Pass pass, int axis, int64_t count) {
  const int64_t stride = p.stride[axis], per = p.per[axis], extent = p.dilation[axis] * (p.window[axis] - 1) + 1;
  if (pass == Pass::dgrad) {
    const int64_t windows = per > 1 ? ceil_div(count * per + stride - 1, stride) : (count + extent - 2) / stride + 1;
    return std::min(p.out[axis], windows);
  }
  const int64_t step = p.out[axis] == 1 ? 0 : std::min(stride, largest_coordinate);
  return std::min(p.in[axis], per > 1 ? ceil_div(count * stride + per - 1, per) : (count - 1) * step + extent);
}

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

namespace {

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

// The divisor of every window, or 0.
int64_t uniform_divisor(const PoolProblem& p) {
  if (!is_average(p) || p.is_adaptive()) return 0;
  if (p.divisor_override != 0) return p.divisor_override;
  for (int i = 0; i < 3; ++i) {
    const int64_t end = (p.out[i] - 1) * p.stride[i] + p.window[i];  // in the padded input
    if (end > p.in[i] + 2 * p.pad[i] || (p.pad[i] > 0 && !p.count_include_pad)) return 0;
  }
  return volume(p.window);
}

}  // namespace

// ---- parameters ----

PoolParams pool_params(const PoolProblem& p, Pass pass, bool vectors) {
  PoolParams params{};
  params.wide_offsets = p.offset_bytes() == 4;
  params.count_include_pad = p.count_include_pad;
  params.divisor_override = p.divisor_override;
  params.uniform_divisor = uniform_divisor(p);
  params.outer = pieces(p);
  params.channels = int(piece_channels(p));
  params.channel_vectors = params.channels / (vectors ? vector_of(p.dtype) : 1);
  params.by_channel_vectors = Divisor(params.channel_vectors);
  params.units = int(units_of(p, pass, vectors));
  params.by_units = Divisor(params.units);
  for (int i = 0; i < 3; ++i) {
    params.covering[i] = int(reach_of(p, Pass::dgrad, i, 1));
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

bool vectors_allowed(const PoolArgs& args, int64_t offset_bytes) {
  return aligned(args.src, 16) && aligned(args.dst, 16) &&
         aligned(args.offsets, std::min<int64_t>(16, 8 * offset_bytes)) && aligned(args.indices, 16);
}

namespace {

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
    set_addresses(now, args);
    const char* name = pass == Pass::fprop ? "pool_forward" : pass == Pass::dgrad ? "pool_backward" : "pool_gather";
    auto launch = one_dimensional(name, blocks_of(problem, pass, now_vectors), pool_threads, args.stream);
    name_pool_regions(launch, problem, pass, args);
    visit_dtype(problem.dtype, [&](auto t) {
      launch_pool<decltype(t)>(work_of(pass), is_average(problem), now_vectors, launch, now);
    });
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

// A tap after the other, most of them from L1.
Cost cost_direct(const PoolProblem& p, Pass pass, const PlanOptions&) {
  // Channels first, a warp's request for one tap of its windows spreads over stride times the bytes.
  const double spread =
      p.layout == Layout::nchw && pass == Pass::fprop ? 2.0 * double(std::min<int64_t>(p.stride[2], 8)) : 1;
  const double scalar = p.layout == Layout::nhwc && !channel_vectors(p) ? 1.5 : 1;
  const int registers = pass == Pass::fprop   ? pool_forward.count
                        : pass == Pass::dgrad ? pool_backward.count
                                              : pool_gather.count;
  const double read = double(size_of(p.dtype)) + (pass == Pass::dgrad && !is_average(p) ? p.offset_bytes() : 0);
  const double reads = double(p.y_elements()) * double(volume(p.window)), e = double(size_of(p.dtype));
  // What is read again and again comes from L1 or L2, at a price.
  const double again = pass == Pass::fprop   ? reads * e - double(p.x_elements()) * e
                       : pass == Pass::dgrad ? (reads - double(p.y_elements())) * read
                                             : 0;
  Cost cost = roofline(p.dtype, {double(blocks_of(p, pass, channel_vectors(p))),
                                 0,
                                 1,
                                 p.bytes(pass) * spread * scalar + std::max(0.0, again) / 4,
                                 0,
                                 0,
                                 {pool_threads, registers, 0}});
  if (pass == Pass::fprop) cost.microseconds += 0.02 * double(volume(p.window));
  return cost;
}

}  // namespace

Prepared<PoolProblem> prepare_direct_pool(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  return prepare_direct(p, pass, options);
}

std::vector<Kernel<PoolProblem>> direct_pool_kernels() {
  return {staged_pool_kernel(),
          march_pool_kernel(),
          global_pool_kernel(),
          {"pool_direct", "any pass and layout: a thread a result, 16 bytes of channels each if channels last",
           refuse_direct, cost_direct, prepare_direct, rows_first},
          unpool_kernel()};
}

}  // namespace fastconv::planner
