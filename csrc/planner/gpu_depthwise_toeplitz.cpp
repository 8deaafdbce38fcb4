// Depthwise convolution by Toeplitz matrices on tensor cores as the planner sees it.
#include <algorithm>

#include "kernels/depthwise_toeplitz_params.h"
#include "planner/gpu_conv.h"
#include "planner/gpu_depthwise_tile.h"
#include "planner/gpu_lowering.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

constexpr int64_t least_taps = 9;

// What one block needs besides addresses.
struct Toeplitz {
  ToeplitzParams params{};
  int size = 0;
  int64_t tiles = 0, slices = 1, shared_bytes = 0;  // tiles: of a plane
  // Channels last: the operands become planes in the workspace, and fprop's and dgrad's result is brought back.
  PackedOperand image, filter, result;

  int64_t packed_bytes() const { return image.bytes + filter.bytes; }
};

int64_t shared_bytes_of(const ToeplitzParams& t, int size) {
  const int64_t staged = 2 * (2 * int64_t(t.filter_copy) + int64_t(t.patch_rows) * t.patch_pitch);
  return std::max<int64_t>(staged, 4 * int64_t(toeplitz_warps) * size * (size + 4));
}

// Copies of so many bytes at most. The patch begins where the widest ones do, so that narrower ones do, too.
void set_copies(ToeplitzParams& t, int size, int bytes) {
  t.copy_bytes = bytes;
  t.by_patch_row = Divisor(32 * int64_t(t.chunks + size / 16 - 1) / bytes);
}

// Shared memory for bands of so many rows.
void lay_out(Toeplitz& found, int64_t rows) {
  ToeplitzParams& t = found.params;
  t.band_rows = int(rows);
  t.by_bands = Divisor(ceil_div(t.filter_rows, rows)), t.by_filter_columns = Divisor(t.filter_columns);
  const int widest = t.image_columns % 8 == 0 ? 16 : t.image_columns % 2 == 0 ? 4 : 2, unit = widest / 2;
  t.shift = (unit - t.pad_columns % unit) % unit;
  t.chunks = int(ceil_div(t.filter_columns + t.shift + 15, 16)), t.filter_pitch = 16 * t.chunks + 16;
  // The copies' words lie 16 banks apart, rows of the patch an odd number of 16 bytes.
  t.filter_copy = int(round_up(rows * t.filter_pitch - 32, 64) + 32);
  t.patch_rows = int(found.size + rows - 1), t.patch_pitch = 16 * (t.chunks + found.size / 16 - 1) + 8;
  set_copies(t, found.size, widest);
  found.shared_bytes = shared_bytes_of(t, found.size);
}

// Bands of wgrad's "filter", the gradient's plane, that leave room for four blocks an SM.
constexpr int64_t band_shared_bytes = 48 * 1024;

void set_planes(Toeplitz& found, const ConvProblem& p, Pass pass, const Axes& image, const Axes& out) {
  ToeplitzParams& t = found.params;
  const bool packs = p.layout == Layout::nhwc, wgrad = pass == Pass::wgrad;
  const auto plane = [&](const Axes& axes) { return packs ? plane_pitch(p.dtype, axes) : volume(axes); };
  t.image_plane = plane(image), t.filter_plane = wgrad ? plane(p.out) : volume(p.filter);
  t.out_plane = wgrad ? volume(p.filter) : plane(out);
  if (!packs) return;
  found.image = to_planes(pass == Pass::dgrad ? "gy" : "x", p.dtype, p.n, p.c, image);
  if (wgrad) found.filter = to_planes("gy", p.dtype, p.n, p.c, p.out);
  if (!wgrad) found.result = from_planes(p.dtype, p.n, p.c, out);
}

Toeplitz toeplitz_of(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  Toeplitz found;
  ToeplitzParams& t = found.params;
  const bool dgrad = pass == Pass::dgrad, wgrad = pass == Pass::wgrad;
  const Axes &image = dgrad ? p.out : p.in, &out = dgrad ? p.in : wgrad ? p.filter : p.out;
  const Axes& filter = wgrad ? p.out : p.filter;
  t.channels = int(p.c), t.sums = wgrad;
  t.image_rows = int(image[1]), t.image_columns = int(image[2]);
  t.filter_rows = int(filter[1]), t.filter_columns = int(filter[2]);
  t.out_rows = int(out[1]), t.out_columns = int(out[2]);
  t.pad_rows = int(dgrad ? p.filter[1] - 1 - p.pad_lo[1] : p.pad_lo[1]);
  t.pad_columns = int(dgrad ? p.filter[2] - 1 - p.pad_lo[2] : p.pad_lo[2]);
  t.gather.transposed = dgrad;
  set_planes(found, p, pass, image, out);
  found.size = std::max(out[1], out[2]) <= toeplitz_sizes[0] ? toeplitz_sizes[0] : toeplitz_sizes[1];
  const int64_t across = ceil_div(out[2], found.size), down = ceil_div(out[1], found.size);
  found.tiles = across * down;
  t.by_across = Divisor(across), t.by_down = Divisor(down), t.by_channels = Divisor(p.c);
  int64_t rows = filter[1];
  lay_out(found, rows);
  while (wgrad && rows > toeplitz_warps && found.shared_bytes > band_shared_bytes)
    lay_out(found, rows = ceil_div(rows / 2, toeplitz_warps) * toeplitz_warps);
  t.items = int(p.n * t.by_bands.value), t.items_a_slice = 1, found.slices = p.n;
  if (wgrad) {
    PlanOptions rest = options;
    if (rest.workspace_limit >= 0)
      rest.workspace_limit = std::max<int64_t>(0, rest.workspace_limit - found.packed_bytes());
    const int64_t wanted = std::min<int64_t>(t.items, slices_of(p, found.tiles * p.c, rest).count);
    t.items_a_slice = int(ceil_div(t.items, wanted)), found.slices = ceil_div(t.items, t.items_a_slice);
    t.partial = found.slices > 1;
  } else {
    set_epilogue(t.gather, options);
  }
  return found;
}

std::string refuse(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad && pass != Pass::wgrad)
    return concat("computes fprop, dgrad and wgrad, not ", name_of(pass));
  if (p.c != p.groups || p.k != p.groups)
    return concat("one input and one output channel a group, here ", p.c_per_group(), " and ", p.k_per_group());
  if (p.dtype != DType::f16 && p.dtype != DType::bf16)
    return concat("tensor cores multiply float16 and bfloat16 here, not ", name_of(p.dtype));
  if (p.layout == Layout::nhwc && options.residual) return "adds a residual to planes only: channels first";
  if (auto reason = refuse_size(p); !reason.empty()) return reason;
  if (p.in[0] != 1 || p.filter[0] != 1 || p.pad_lo[0] + p.pad_hi[0] != 0) return "planes only, not volumes";
  for (int i = 1; i < 3; ++i) {
    if (p.stride[i] != 1) return concat("a stride of 1, here ", p.stride[i]);
    if (p.dilation[i] != 1 && p.filter[i] != 1) return concat("a dilation of 1, here ", p.dilation[i]);
  }
  if (std::max(p.filter[1], p.filter[2]) < least_taps)
    return concat("filters of ", least_taps, " taps along an axis and more: memory bounds smaller ones");
  const Toeplitz found = toeplitz_of(p, pass, options);
  if (found.shared_bytes > tile_shared_limit)
    return concat("a block's windows take ", found.shared_bytes, " bytes of shared memory, more than ",
                  tile_shared_limit);
  for (const PackedOperand* each : {&found.image, &found.filter, &found.result})
    if (auto reason = refuse_packing(*each); !reason.empty()) return reason;
  if (p.n * found.params.by_bands.value > largest_grid) return "more than 2^31 - 1 items";
  if (found.tiles * p.c > largest_grid / found.slices) return "needs more than 2^31 - 1 blocks";
  return "";
}

Cost cost(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const Toeplitz found = toeplitz_of(p, pass, options);
  const ToeplitzParams& t = found.params;
  const double element = double(size_of(p.dtype)), items = t.items_a_slice;
  Work work;
  work.blocks = double(found.tiles * p.c * found.slices);
  // mma's of a row of the filter, and what it takes to bring a copy or a tap to shared memory, or a result out: some 25
  // instructions.
  const double products = double(t.chunks) * (found.size / 16) * (found.size / 8);
  const double staged = double(t.patch_rows) * t.by_patch_row.value + double(t.band_rows) * t.filter_columns;
  work.block_flops = items * (4096.0 * products * t.band_rows + 256 * staged) + 256.0 * found.size * found.size;
  work.efficiency = 0.3, work.peak = h100.tensor_flops;
  work.bytes = traffic(p, pass, options);
  const double seen = double(std::min(t.patch_rows, t.image_rows)) * std::min(t.patch_pitch, t.image_columns);
  work.l2_bytes = work.blocks * items * (seen + double(t.band_rows) * t.filter_columns) * element;
  work.footprint = {toeplitz_threads, depthwise_toeplitz_registers.count, int(found.shared_bytes)};
  Cost packing = packing_cost(found.image, p.dtype) + packing_cost(found.filter, p.dtype);
  packing = packing + packing_cost(found.result, p.dtype);
  if (!t.partial) return roofline(p.dtype, work) + packing;
  const double partial = double(found.slices * p.w_elements() * accumulator_bytes(p.dtype));
  work.bytes += partial, work.l2_bytes += partial;
  return roofline(p.dtype, work) + packing + roofline(p.dtype, {1, 0, 1, partial + double(p.w_elements()) * element});
}

class ToeplitzRun {
 public:
  ToeplitzRun(const ConvProblem& p, Pass pass, int device, const Toeplitz& found)
      : problem(p), pass(pass), device(device), found(found) {}

  void operator()(const ConvArgs& given) const {
    const device::DeviceScope scope(device);
    ConvArgs args = given;
    char* workspace = static_cast<char*>(args.workspace);
    const auto place = [&](const PackedOperand& operand, const void*& from) {
      if (!operand.is_packed) return;
      run(operand, problem.dtype, from, workspace, "workspace", args.stream);
      from = workspace, workspace += operand.bytes;
    };
    place(found.image, args.a), place(found.filter, args.b);
    args.workspace = workspace;
    if (found.result.is_packed) args.out = workspace;
    multiply(args);
    if (found.result.is_packed) run(found.result, problem.dtype, args.out, given.out, "output", args.stream);
  }

 private:
  ConvProblem problem;
  Pass pass;
  int device;
  Toeplitz found;

  // Planes to planes, or to the filter's gradient.
  void multiply(const ConvArgs& args) const {
    ToeplitzParams now = found.params;
    set_addresses(now.gather, args);
    if (!aligned(args.a, now.copy_bytes)) set_copies(now, found.size, aligned(args.a, 4) ? 4 : 2);
    now.image = args.a, now.filter = args.b, now.out = now.partial ? args.workspace : args.out;
    constexpr const char* names[] = {"depthwise_toeplitz_fprop", "depthwise_toeplitz_dgrad",
                                     "depthwise_toeplitz_wgrad"};
    const int64_t blocks = found.tiles * problem.c * found.slices;
    auto launch = one_dimensional(names[int(pass)], blocks, toeplitz_threads, args.stream);
    launch.shared_bytes = size_t(found.shared_bytes);
    name_memory(launch, args, now);
    problem.dtype == DType::f16 ? launch_depthwise_toeplitz<f16>(found.size, launch, now)
                                : launch_depthwise_toeplitz<bf16>(found.size, launch, now);
    if (now.partial) sum_slices(problem.dtype, args, problem.w_elements(), found.slices);
  }

  void name_memory(device::Launch& launch, const ConvArgs& args, const ToeplitzParams& now) const {
    const int64_t element = size_of(problem.dtype), planes = problem.n * problem.c;
    const bool wgrad = pass == Pass::wgrad;
    const int64_t out = now.partial ? found.slices * accumulator_bytes(problem.dtype) : element;
    name_regions(launch,
                 {{now.image, planes * now.image_plane * element, pass == Pass::dgrad ? "gy" : "x"},
                  {now.filter, (wgrad ? planes : problem.c) * now.filter_plane * element, wgrad ? "gy" : "weight"},
                  {args.bias, problem.c * element, "bias"},
                  {args.residual, planes * now.out_plane * element, "residual"},
                  {now.out, (wgrad ? problem.c * out : planes * element) * now.out_plane,
                   now.partial ? "workspace" : "output"}});
  }
};

Prepared<ConvProblem> prepare(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  const Toeplitz found = toeplitz_of(p, pass, options);
  const ToeplitzParams& t = found.params;
  Prepared<ConvProblem> prepared;
  prepared.launch = ToeplitzRun(p, pass, options.device, found);
  prepared.workspace_bytes = found.packed_bytes() + found.result.from_bytes;
  if (t.partial) prepared.workspace_bytes += found.slices * p.w_elements() * accumulator_bytes(p.dtype);
  prepared.detail = concat("squares of ", found.size, ", ", t.chunks, " chunks of 16 columns, grid ",
                           found.tiles * p.c * found.slices, ", ", found.shared_bytes, " bytes shared");
  if (pass == Pass::wgrad)
    prepared.detail += concat(", bands of ", t.band_rows, " rows, ", found.slices, " slices of ", t.items_a_slice);
  if (found.image.is_packed) prepared.detail += ", by way of planes in the workspace";
  return prepared;
}

}  // namespace

Kernel<ConvProblem> depthwise_toeplitz_entry() {
  return {"depthwise_toeplitz",
          "large filters of one channel a group, as Toeplitz matrices on tensor cores",
          refuse,
          cost,
          prepare,
          "depthwise_toeplitz"};
}

}  // namespace fastconv::planner
