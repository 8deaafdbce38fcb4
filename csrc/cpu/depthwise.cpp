// The table's "depthwise" entry: one filter a channel; each layout has its own kernels (cpu/depthwise.h).
#include "cpu/depthwise.h"

#include <algorithm>
#include <memory>

#include "cpu/costs.h"
#include "cpu/entries.h"
#include "cpu/results.h"
#include "cpu/rows.h"

namespace fastconv::cpu {
namespace {

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass == Pass::gather) return "a convolution has no gather pass";
  if (pass == Pass::bgrad) return "the bias gradient has no filter";
  if (auto reason = refuse_folding(p, pass); !reason.empty()) return reason;
  if (p.pad_mode != PadMode::zeros && p.layout == Layout::nhwc) return "reads pixels where they lie: only zeros pad";
  if (p.c_per_group() != 1) return concat(p.c_per_group(), " input channels per group: not depthwise");
  if (pass == Pass::dgrad && p.k_per_group() != 1)
    return concat(p.k_per_group(), " filters a channel: dgrad takes one");
  if (p.dtype != DType::f32 && p.dtype != DType::f64 && !refuse_epilogue(options).empty())
    return concat(refuse_epilogue(options), " in 16 bits");
  if (auto reason = refuse_smooth(options); !reason.empty()) return reason;
  const Correlation task = correlation(p, pass == Pass::dgrad ? pass : Pass::fprop);
  return p.layout == Layout::nchw ? refuse_planar(task.axis, accumulator_size(p.dtype)) : refuse_phases(task.axis);
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return conv_cost(p, pass, options, Maker::fast);
}

// Some 32 tasks, whatever the number of threads: bits must not depend on it.
constexpr int64_t kTasks = 32;

Prepared<ConvProblem> prepare_gradient(const ConvProblem& p, const PlanOptions& options, int64_t splits, int64_t tasks,
                                       std::function<void(const ConvArgs&, int threads)> launch) {
  const int threads = usable_threads(options.threads, cost(p, Pass::wgrad, options).microseconds > kSerialMicroseconds);
  const int64_t taps = volume(p.filter);
  const GradientSum sum{p.dtype, p.k, taps, splits, nullptr, nullptr};
  return {[sum, threads, launch](const ConvArgs& args) {
            launch(args, threads);
            if (sum.splits == 1) return;
            GradientSum run = sum;
            run.partial = args.workspace, run.gw = args.out;
            parallel_for(run.channels, run.channels / 4 + 1, threads, kernels().depthwise_gradient_sum, &run);
          },
          splits > 1 ? splits * p.k * taps * accumulator_size(p.dtype) : 0,
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " tasks, ", splits, " splits")};
}

template <class Task>
Task with_addresses(Task run, const ConvArgs& args) {
  run.problem.x = args.a, run.problem.gy = args.b, run.problem.gw = args.out, run.problem.partial = args.workspace;
  return run;
}

Prepared<ConvProblem> prepare_planar_gradient(const ConvProblem& p, const PlanOptions& options) {
  PlanarGradient task{weight_gradient(p), p.k, p.k_per_group(), 1, nullptr};
  const auto plan = std::make_shared<PlanarPlan>(task.problem.axis, accumulator_size(p.dtype));
  task.planar = &plan->planar();
  const int64_t units = p.n * p.out[0] * task.planar->bands;
  task.splits = std::max<int64_t>(1, std::min(units, (kTasks + p.k - 1) / p.k));
  const int64_t tasks = task.splits * p.k;
  return prepare_gradient(p, options, task.splits, tasks, [task, plan, tasks](const ConvArgs& args, int threads) {
    const PlanarGradient run = with_addresses(task, args);
    parallel_for(tasks, tasks / 64 + 1, threads, kernels().planar_gradient, &run);
  });
}

// NHWC: the rows under a row of windows, and that of outputs, stay in L2; but memory is not read in shorter runs.
int64_t chunk_channels(const ConvProblem& p) {
  constexpr int64_t bytes = 256 << 10, run = 256;
  const int64_t pixels = (p.filter[1] + p.stride[1]) * p.in[2] + p.out[2];
  return std::max(run, bytes / (pixels * size_of(p.dtype)));
}

// NHWC: pixels of tensors that come from memory are asked for before their turn. Nearer ones the hardware has in time:
// asking takes a fifth longer there, and not asking nearly twice as long here.
bool asks_ahead(const ConvProblem& p) { return (p.x_elements() + p.y_elements()) * size_of(p.dtype) > (16 << 20); }

Prepared<ConvProblem> prepare_pixel_gradient(const ConvProblem& p, const PlanOptions& options) {
  PixelGradient task{weight_gradient(p), p.k, p.k_per_group(), volume(p.filter), 1, {}, asks_ahead(p), {}};
  const auto phases = std::make_shared<Phases>(task.problem.axis);
  for (int i = 0; i < 3; ++i) task.phase[i] = phases->axis[i].data();
  // A second stage takes as long as some hundred outputs: rather chunks than splits.
  constexpr int64_t outputs = 512, least = 256, sums = 4096;  // sums of a chunk's channels: they stay in L1
  const int64_t units = p.n * p.out[0] * p.out[1];
  task.chunks = chunks_of(p.k, std::min({sums / task.taps, chunk_channels(p), std::max(least, p.k / kTasks)}));
  const int64_t used = task.chunks.count;
  task.splits = std::max<int64_t>(1, std::min({units, kTasks / used, units * p.out[2] / outputs}));
  const int64_t tasks = task.splits * used;
  return prepare_gradient(p, options, task.splits, tasks, [task, phases, tasks](const ConvArgs& args, int threads) {
    const PixelGradient run = with_addresses(task, args);
    parallel_for(tasks, 1, threads, kernels().pixel_gradient, &run);
  });
}

// Past the caches, unless an epilogue reads what has been written.
bool streams_result(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return refuse_epilogue(options).empty() && streams(result_bytes(p, pass));
}

// Bands enough for the threads, but no more: each reads a row of either neighbour.
template <class Task>
void split_rows(Task& task, int64_t height, int64_t bands) {
  bands = std::max<int64_t>(1, std::min(height / 24, bands));
  task.rows = (height + bands - 1) / bands;
  task.bands = (height + task.rows - 1) / task.rows;
}

Prepared<ConvProblem> prepare_rows_gradient(const ConvProblem& p, const PlanOptions& options) {
  RowsGradient task{weight_gradient(p), p.k, p.k_per_group(), 1, 1, 0};
  split_rows(task, p.out[1], (kTasks + p.n * p.k - 1) / (p.n * p.k));
  task.splits = std::min(p.n * task.bands, (kTasks + p.k - 1) / p.k);
  const int64_t tasks = task.splits * p.k;
  return prepare_gradient(p, options, task.splits, tasks, [task, tasks](const ConvArgs& args, int threads) {
    const RowsGradient run = with_addresses(task, args);
    parallel_for(tasks, tasks / 64 + 1, threads, kernels().rows_gradient, &run);
  });
}

Prepared<ConvProblem> prepare_rows(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const bool forward = pass == Pass::fprop;
  RowsDepthwise task{
      with_epilogue(correlation(p, pass), options), forward ? p.k : p.c, p.k_per_group(), 1, 0, !forward, false};
  const int64_t planes = p.n * task.channels, height = p.in[1];
  split_rows(task, height, (64 + planes - 1) / planes);
  task.stream = streams_result(p, pass, options);
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = planes * task.bands;
  return {[task, tasks, threads](const ConvArgs& args) {
            RowsDepthwise run = task;
            set_addresses(run.problem, args);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().rows_depthwise, &run);
          },
          0,
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", task.rows, " rows in place")};
}

Prepared<ConvProblem> prepare_planar(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  PlanarDepthwise task{with_epilogue(correlation(p, pass), options), pass == Pass::fprop ? p.k : p.c, p.k_per_group(),
                       nullptr};
  const auto plan = std::make_shared<PlanarPlan>(task.problem.axis, accumulator_size(p.dtype));
  const Planar& planar = plan->planar();
  task.planar = &planar;
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = p.n * task.channels * planar.axis[0].out * planar.bands;
  return {[task, plan, tasks, threads](const ConvArgs& args) {
            PlanarDepthwise run = task;
            set_addresses(run.problem, args);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().planar_depthwise, &run);
          },
          0, concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " bands of ", planar.height, " rows")};
}

Prepared<ConvProblem> prepare_pixels(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  PixelDepthwise task{with_epilogue(correlation(p, pass), options),
                      pass == Pass::fprop ? p.k : p.c,
                      p.k_per_group(),
                      volume(p.filter),
                      chunks_of(pass == Pass::fprop ? p.k : p.c, chunk_channels(p)),
                      false,
                      asks_ahead(p),
                      {},
                      nullptr};
  // All of a tile, which lies in one run, or long runs of each pixel.
  const bool long_runs = task.chunks.size * size_of(p.dtype) >= 128, one_run = pass == Pass::fprop || p.stride[2] == 1;
  task.stream = task.multiplier == 1 && (long_runs || one_run) && streams_result(p, pass, options);
  const auto phases = std::make_shared<Phases>(task.problem.axis);
  for (int i = 0; i < 3; ++i) task.phase[i] = phases->axis[i].data();
  const int threads = usable_threads(options.threads, cost(p, pass, options).microseconds > kSerialMicroseconds);
  const int64_t tasks = p.n * task.chunks.count * task.problem.axis[0].out * task.problem.axis[1].out;
  const int64_t blocks = (task.channels + kBlock - 1) / kBlock;
  return {[task, phases, tasks, blocks, threads](const ConvArgs& args) {
            PixelDepthwise run = task;
            set_addresses(run.problem, args);
            run.packed = args.workspace;
            parallel_for(blocks, 16, threads, kernels().pixel_pack, &run);
            parallel_for(tasks, tasks / 64 + 1, threads, kernels().pixel_depthwise, &run);
          },
          (task.taps + 1) * blocks * kBlock * accumulator_size(p.dtype),
          concat(threads, " thread", threads == 1 ? "" : "s", ", ", tasks, " rows")};
}

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (p.layout == Layout::nhwc)
    return pass == Pass::wgrad ? prepare_pixel_gradient(p, options) : prepare_pixels(p, pass, options);
  if (by_rows(p)) return pass == Pass::wgrad ? prepare_rows_gradient(p, options) : prepare_rows(p, pass, options);
  return pass == Pass::wgrad ? prepare_planar_gradient(p, options) : prepare_planar(p, pass, options);
}

}  // namespace

Chunks chunks_of(int64_t channels, int64_t most) {
  const int64_t whole = std::max<int64_t>(64, most), wanted = (channels + whole - 1) / whole;
  const int64_t size = std::max<int64_t>(kBlock, channels / wanted / kBlock * kBlock);
  return {size, std::max<int64_t>(1, channels / size)};
}

bool by_rows(const ConvProblem& p) {
  if (p.pad_mode != PadMode::zeros) return false;
  if (p.layout != Layout::nchw || size_of(p.dtype) != accumulator_size(p.dtype)) return false;
  if (p.in[0] * p.filter[0] * p.out[0] != 1) return false;
  for (int i = 1; i < 3; ++i)
    if (p.filter[i] != 3 || p.stride[i] != 1 || p.dilation[i] != 1 || p.pad_lo[i] != 1 || p.pad_hi[i] != 1)
      return false;
  return p.in[2] > kernels().vector_bytes / accumulator_size(p.dtype);
}

Kernel<ConvProblem> depthwise_entry() {
  return {"depthwise",
          "one filter a channel, any stride and dilation; vectors along the width (NCHW) or of channels (NHWC)",
          refuse,
          cost,
          prepare,
          nullptr,
          true};
}

}  // namespace fastconv::cpu
