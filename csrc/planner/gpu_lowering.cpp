#include "planner/gpu_lowering.h"

#include <numeric>

#include "planner/cost.h"

namespace fastconv::planner {

using namespace kernels;

namespace {

int64_t round_up(int64_t value, int64_t unit) { return ceil_div(value, unit) * unit; }

// Groups are merged until each side has this many channels: a third of a tile's rows, or a stage's depth.
constexpr int64_t merged_channels = 32;

int64_t merged_groups(const ConvProblem& p) {
  const int64_t least = std::min(p.c_per_group(), p.k_per_group());
  for (int64_t merged = 1; merged < p.groups; ++merged)
    if (p.groups % merged == 0 && merged * least >= merged_channels) return merged;
  return p.groups;
}

// The channels that a fold needs at each position.
int64_t folded_channels(int64_t channels, int64_t factor, int64_t vector) {
  return round_up(channels, vector / std::gcd(factor, vector));
}

Fold fold_of(const ConvProblem& p, Pass pass, int64_t vector) {
  Fold fold{1, 0, p.filter[2]};
  const int64_t factor = p.stride[2];
  const bool can = pass != Pass::dgrad && p.groups == 1 && p.c < vector && factor > 1 && p.filter[2] > 1 &&
                   p.dilation[2] == 1 && p.in[2] % factor == 0;
  if (!can || folded_channels(p.c, factor, vector) >= vector) return fold;
  fold.factor = factor;
  fold.front = round_up(p.pad_lo[2], factor) - p.pad_lo[2];
  fold.taps = round_up(fold.front + p.filter[2], factor);
  return fold;
}

// Channels last, whole vectors of channels; output channels as they are in fprop, which never reads them side by side.
ConvProblem inner_of(const ConvProblem& outer, const Fold& fold, Pass pass) {
  const int64_t vector = 16 / size_of(outer.dtype);
  ConvProblem p = outer;
  p.layout = Layout::nhwc;
  const int64_t c =
      fold.factor * (fold.factor > 1 ? folded_channels(p.c, fold.factor, vector) : round_up(p.c_per_group(), vector));
  const int64_t k = pass == Pass::fprop ? p.k_per_group() : round_up(p.k_per_group(), vector);
  p.c = p.groups * c, p.k = p.groups * k;
  if (fold.factor == 1) return p;
  p.in[2] /= fold.factor, p.filter[2] = fold.taps / fold.factor, p.stride[2] = 1;
  p.pad_lo[2] = (p.pad_lo[2] + fold.front) / fold.factor;
  p.pad_hi[2] = 0;  // what `out` leaves
  return p;
}

ConvProblem with_groups(ConvProblem p, int64_t groups, int64_t c_per_group, int64_t k_per_group) {
  p.groups = groups, p.c = groups * c_per_group, p.k = groups * k_per_group;
  return p;
}

// Channels first or last is the same where there is one position, or one channel in all.
bool is_last(const ConvProblem& p, int64_t channels, int64_t positions) {
  return p.layout == Layout::nhwc || positions == 1 || channels == 1;
}

void finish(PackedOperand& operand, int64_t element, int64_t from_elements) {
  PackParams& params = operand.params;
  const PackTile tile = pack_tile(element, params.padded);
  const bool whole = params.run == params.from_run && params.positions % (16 / element) == 0;
  params.vector_loads = whole && params.from_position == 1;
  params.vector_stores = true;
  params.position_tiles = ceil_div(params.positions, tile.positions);
  params.channel_tiles = int(ceil_div(params.padded, tile.channels));
  operand.is_packed = true;
  operand.from_bytes = from_elements * element;
  operand.bytes = round_up(params.outer * params.inner * params.positions * params.padded * element, 256);
}

// x or gy: [N][group][c][position] or [N][position][group][c] -> [N][position][group][padded].
PackedOperand activations(const char* name, const ConvProblem& p, int64_t channels, int64_t padded, const Axes& axes) {
  PackedOperand operand;
  operand.name = name;
  const int64_t plane = volume(axes), total = p.groups * channels;
  const bool last = is_last(p, total, plane);
  if (last && padded == channels) return operand;
  PackParams& params = operand.params;
  params.outer = last ? 1 : p.n, params.positions = last ? p.n * plane : plane;
  params.inner = params.inner_valid = params.shift_rows = int(p.groups);
  params.channels = int(channels), params.padded = int(padded);
  params.from_outer = total * plane, params.from_inner = last ? channels : channels * plane;
  params.from_channel = last ? 1 : plane, params.from_position = last ? total : 1;
  params.to_position = p.groups * padded, params.to_outer = plane * params.to_position, params.to_inner = padded;
  finish(operand, size_of(p.dtype), p.n * total * plane);
  return operand;
}

// [group][k][c][tap] or [group][k][tap][c] -> [merged group][padded k][padded tap][padded c], block-diagonal.
PackedOperand weights(const ConvProblem& p, const Lowering& lowering) {
  const ConvProblem& inner = lowering.inner;
  const Fold& fold = lowering.fold;
  const int64_t merged = lowering.merged, padded = inner.c_per_group() / fold.factor;
  PackedOperand operand;
  operand.name = "weight";
  const int64_t taps = volume(p.filter), channels = p.c_per_group(), rows = merged * p.k_per_group();
  const bool last = is_last(p, channels, taps);
  const bool as_is = padded == channels && inner.k_per_group() == rows && fold.taps == p.filter[2];
  if (last && merged == 1 && as_is) return operand;
  PackParams& params = operand.params;
  params.outer = inner.groups, params.positions = taps / p.filter[2] * fold.taps;
  params.run = int(fold.taps), params.from_run = int(p.filter[2]), params.run_first = int(fold.front);
  params.inner = int(inner.k_per_group()), params.inner_valid = int(rows), params.shift_rows = int(p.k_per_group());
  params.channels = int(channels), params.padded = int(padded);
  params.from_outer = rows * channels * taps, params.from_inner = channels * taps;
  params.from_channel = last ? 1 : taps, params.from_position = last ? channels : 1;
  params.to_position = params.padded, params.to_inner = params.positions * padded;
  params.to_outer = params.inner * params.to_inner;
  finish(operand, size_of(p.dtype), p.w_elements());
  return operand;
}

void set_unit(Im2colParams& params, int64_t row, int64_t elements) {
  params.unit_elements = int(elements), params.row_units = int(row / elements);
  params.column_tiles = int(ceil_div(params.row_units, 32));
}

// x by windows: [position][group][padded row].
PackedOperand columns(const ConvProblem& p, const ConvProblem& inner) {
  PackedOperand operand;
  operand.is_packed = operand.is_columns = true;
  operand.name = "x";
  const int64_t element = size_of(p.dtype), vector = 16 / element;
  Im2colParams& params = operand.columns;
  params.channels_last = p.layout == Layout::nhwc;
  set_unit(params, inner.c_per_group(), params.channels_last && p.c_per_group() % vector == 0 ? vector : 1);
  params.row_elements = int(p.c_per_group() * volume(p.filter));
  params.channels = int(p.c_per_group()), params.groups = int(p.groups), params.batch = p.n;
  for (int i = 0; i < 3; ++i) params.axis[i] = axis_of(p, i, false);
  params.x_strides = strides_of(p.layout, p.c, p.groups, p.in);
  operand.from_bytes = p.x_elements() * element;
  operand.bytes = round_up(inner.x_elements() * element, 256);
  return operand;
}

UnpackParams unpack_params(const ConvProblem& p, const Lowering& lowering) {
  const Fold& fold = lowering.fold;
  const Strides w = strides_of(p.layout, p.c_per_group(), 1, p.filter);
  UnpackParams params{};
  params.rows = p.k, params.taps = int(volume(p.filter) / p.filter[2] * fold.taps);
  params.run = int(fold.taps), params.from_run = int(p.filter[2]), params.run_first = int(fold.front);
  params.channels = int(p.c_per_group()), params.padded = int(lowering.inner.c_per_group() / fold.factor);
  params.group_rows = int(p.k_per_group()), params.merged = int(lowering.merged);
  params.out_row = w.batch, params.out_channel = w.channel, params.out_tap = w.axis[2];
  return params;
}

int64_t blocks_of(const PackedOperand& operand) {
  const Im2colParams& c = operand.columns;
  if (operand.is_columns) {
    const int64_t positions = c.batch * c.axis[0].out_extent * c.axis[1].out_extent * c.axis[2].out_extent;
    return ceil_div(positions, im2col_positions) * c.groups * c.column_tiles;
  }
  const PackParams& p = operand.params;
  return p.outer * p.inner * p.position_tiles * p.channel_tiles;
}

void pack_operand(const Lowering& lowering, const PackedOperand& operand, const void*& address, char*& workspace,
                  void* stream) {
  if (!operand.is_packed) return;
  run(operand, lowering.inner.dtype, address, workspace, "workspace", stream);
  address = workspace, workspace += operand.bytes;
}

}  // namespace

void run(const PackedOperand& operand, DType dtype, const void* from, void* to, const char* name, void* stream) {
  const int64_t element = size_of(dtype);
  PackedOperand now = operand;
  PackParams& params = now.params;
  Im2colParams& columns = now.columns;
  params.vector_stores &= aligned(to, 16);
  if (!aligned(from, 16)) {
    params.vector_loads = false;
    if (operand.is_columns) set_unit(columns, columns.row_units * columns.unit_elements, 1);
  }
  auto launch = one_dimensional(operand.is_columns ? "im2col" : "pack", blocks_of(now), pack_threads, stream);
  name_regions(launch, {{from, operand.from_bytes, operand.name}, {to, operand.bytes, name}});
  if (operand.is_columns) {
    columns.x = from, columns.columns = to;
    launch_im2col(columns.unit_elements * element, launch, columns);
  } else {
    params.from = from, params.to = to;
    launch_pack(element, launch, params);
  }
}

int64_t plane_pitch(DType dtype, const Axes& axes) { return round_up(volume(axes), 16 / size_of(dtype)); }

PackedOperand to_planes(const char* name, DType dtype, int64_t n, int64_t c, const Axes& axes) {
  PackedOperand operand;
  operand.name = name;
  PackParams& params = operand.params;
  params.outer = n, params.inner = params.inner_valid = params.shift_rows = 1;
  // The kernel's channels are pixels here, its positions channels: it packs what is not side by side.
  params.channels = int(volume(axes)), params.padded = int(plane_pitch(dtype, axes)), params.positions = c;
  params.from_outer = c * params.channels, params.from_channel = c, params.from_position = 1;
  params.to_outer = c * params.padded, params.to_position = params.padded;
  finish(operand, size_of(dtype), n * c * volume(axes));
  return operand;
}

PackedOperand from_planes(DType dtype, int64_t n, int64_t c, const Axes& axes) {
  PackedOperand operand;
  operand.name = "workspace";
  PackParams& params = operand.params;
  const int64_t pitch = plane_pitch(dtype, axes);
  params.outer = n, params.inner = params.inner_valid = params.shift_rows = 1;
  params.channels = params.padded = int(c), params.positions = volume(axes);
  params.from_outer = c * pitch, params.from_channel = pitch, params.from_position = 1;
  params.to_outer = c * params.positions, params.to_position = c;
  finish(operand, size_of(dtype), n * c * pitch);
  operand.bytes = n * c * params.positions * size_of(dtype);
  params.vector_stores = c * size_of(dtype) % 16 == 0;
  return operand;
}

Lowering as_given(const ConvProblem& p) {
  Lowering lowering;
  lowering.outer = lowering.inner = p;
  return lowering;
}

Lowering packed(const ConvProblem& p, Pass pass) {
  const int64_t vector = 16 / size_of(p.dtype), merged = merged_groups(p);
  Lowering l;
  l.merged = merged;
  l.outer = with_groups(p, p.groups / merged, merged * p.c_per_group(), merged * p.k_per_group());
  const int64_t c = l.outer.c_per_group(), k = l.outer.k_per_group();
  l.fold = fold_of(l.outer, pass, vector);
  l.inner = inner_of(l.outer, l.fold, pass);
  const PackedOperand x = activations("x", l.outer, c, l.inner.c_per_group() / l.fold.factor, p.in);
  const PackedOperand gy = activations("gy", l.outer, k, l.inner.k_per_group(), p.out);
  const PackedOperand w = weights(p, l);
  l.a = pass == Pass::dgrad ? gy : x;
  l.b = pass == Pass::wgrad ? gy : w;
  l.unpacks = pass == Pass::wgrad && w.is_packed;
  l.is_identity = !l.a.is_packed && !l.b.is_packed && !l.unpacks && l.fold.factor == 1;
  if (l.unpacks) l.back = unpack_params(p, l);
  return l;
}

Lowering by_columns(const ConvProblem& p, Pass pass) {
  ConvProblem flat = with_groups(p, p.groups, p.c_per_group() * volume(p.filter), p.k_per_group());
  flat.layout = Layout::nhwc, flat.in = p.out;
  flat.filter = flat.stride = flat.dilation = {1, 1, 1}, flat.pad_lo = flat.pad_hi = {0, 0, 0};
  Lowering l;
  l.outer = p, l.inner = inner_of(flat, l.fold, pass), l.is_identity = false;
  const PackedOperand w = weights(flat, l);
  l.a = columns(p, l.inner);
  l.b = pass == Pass::wgrad ? activations("gy", p, p.k_per_group(), l.inner.k_per_group(), p.out) : w;
  l.unpacks = pass == Pass::wgrad && w.is_packed;
  if (l.unpacks) l.back = unpack_params(flat, l);
  return l;
}

std::string Lowering::describe() const {
  std::string text;
  for (const PackedOperand* operand : {&a, &b})
    if (operand->is_columns) {
      text += ", columns written out";
    } else if (operand->is_packed) {
      text += concat(&b == operand && a.is_packed && !a.is_columns ? " and " : ", packs ", operand->name);
    }
  if (fold.factor > 1) text += concat(", ", fold.factor, " columns taken as channels");
  if (merged > 1) text += concat(", ", merged, " groups in one");
  return unpacks ? text + ", unpacks the result" : text;
}

std::string refuse_packing(const PackedOperand& operand) {
  if (!operand.is_packed || blocks_of(operand) <= largest_grid) return "";
  return concat("packing ", operand.name, " needs more than 2^31 - 1 blocks");
}

std::string refuse_packing(const Lowering& lowering) {
  auto reason = refuse_packing(lowering.a);
  return reason.empty() ? refuse_packing(lowering.b) : reason;
}

ConvArgs pack(const Lowering& lowering, const ConvArgs& args) {
  ConvArgs now = args;
  char* workspace = static_cast<char*>(args.workspace);
  pack_operand(lowering, lowering.a, now.a, workspace, args.stream);
  pack_operand(lowering, lowering.b, now.b, workspace, args.stream);
  now.workspace = workspace;
  return now;
}

void unpack(const Lowering& lowering, const ConvArgs& args, int64_t slices) {
  UnpackParams now = lowering.back;
  now.partial = args.workspace, now.out = args.out, now.slices = int(slices);
  const int64_t elements = now.rows * now.taps * now.padded;
  const int64_t blocks = std::min<int64_t>(ceil_div(elements, pack_threads), 8 * int64_t(h100.multiprocessors));
  auto launch = one_dimensional("unpack", blocks, pack_threads, args.stream);
  const DType dtype = lowering.inner.dtype;
  name_regions(launch,
               {{args.workspace, elements * slices * int64_t(sizeof(float)), "workspace"},
                {args.out, now.rows * now.taps / now.run * now.from_run * now.channels * size_of(dtype), "output"}});
  if (dtype == DType::f16) return launch_unpack<f16>(launch, now);
  dtype == DType::bf16 ? launch_unpack<bf16>(launch, now) : launch_unpack<float>(launch, now);
}

Cost packing_cost(const PackedOperand& operand, DType dtype) {
  return operand.is_packed ? roofline(dtype, {1, 0, 1, double(operand.from_bytes + operand.bytes)}) : Cost{};
}

Cost packing_cost(const Lowering& lowering) {
  const DType dtype = lowering.inner.dtype;
  Cost cost = packing_cost(lowering.a, dtype) + packing_cost(lowering.b, dtype);
  if (lowering.unpacks) cost = cost + roofline(dtype, {1, 0, 1, 4.0 * double(lowering.inner.w_elements())});
  return cost;
}

GatherParams lowered_params(const Lowering& lowering, Pass pass, const PlanOptions& options, const BlockTile& tile,
                            int64_t vector) {
  GatherParams params = gather_params(lowering.inner, pass, options, tile, vector);
  if (lowering.is_identity) return params;
  const ConvProblem& p = lowering.outer;
  const bool dgrad = pass == Pass::dgrad;
  const Axes& axes = dgrad ? p.in : p.out;
  params.rows = int(dgrad ? p.c_per_group() : p.k_per_group());
  const int64_t channels = params.rows * p.groups;
  const bool last = is_last(p, channels, volume(axes));
  params.out_strides = strides_of(last ? Layout::nhwc : Layout::nchw, channels, p.groups, axes);
  const int64_t contiguous = last ? params.rows : gemm_of(p, pass).phases == 1 ? volume(axes) : 1;
  params.vector_stores = contiguous % vector == 0;
  return params;
}

}  // namespace fastconv::planner
