#include "planner/gpu_lowering.h"

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
  params.vector_loads = params.from_position == 1 && params.positions % (16 / element) == 0;
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

// [group][k][c][tap] or [group][k][tap][c] -> [merged group][padded k][tap][padded c], block-diagonal.
PackedOperand weights(const ConvProblem& p, int64_t merged, const ConvProblem& inner) {
  PackedOperand operand;
  operand.name = "weight";
  const int64_t taps = volume(p.filter), channels = p.c_per_group(), rows = merged * p.k_per_group();
  const bool last = is_last(p, channels, taps);
  if (last && merged == 1 && inner.c_per_group() == channels && inner.k_per_group() == rows) return operand;
  PackParams& params = operand.params;
  params.outer = inner.groups, params.positions = taps;
  params.inner = int(inner.k_per_group()), params.inner_valid = int(rows), params.shift_rows = int(p.k_per_group());
  params.channels = int(channels), params.padded = int(inner.c_per_group());
  params.from_outer = rows * channels * taps, params.from_inner = channels * taps;
  params.from_channel = last ? 1 : taps, params.from_position = last ? channels : 1;
  params.to_position = params.padded, params.to_inner = taps * params.padded;
  params.to_outer = params.inner * params.to_inner;
  finish(operand, size_of(p.dtype), p.w_elements());
  return operand;
}

UnpackParams unpack_params(const ConvProblem& p, int64_t merged, const ConvProblem& inner) {
  const Strides w = strides_of(p.layout, p.c_per_group(), 1, p.filter);
  UnpackParams params{};
  params.rows = p.k, params.taps = int(volume(p.filter));
  params.channels = int(p.c_per_group()), params.padded = int(inner.c_per_group());
  params.group_rows = int(p.k_per_group()), params.merged = int(merged);
  params.out_row = w.batch, params.out_channel = w.channel, params.out_tap = w.axis[2];
  return params;
}

int64_t blocks_of(const PackParams& p) { return p.outer * p.inner * p.position_tiles * p.channel_tiles; }

void pack_operand(const Lowering& lowering, const PackedOperand& operand, const void*& address, char*& workspace,
                  void* stream) {
  if (!operand.is_packed) return;
  PackParams now = operand.params;
  now.from = address, now.to = workspace;
  now.vector_loads = now.vector_loads && aligned(address, 16);
  auto launch = one_dimensional("pack", blocks_of(now), pack_threads, stream);
  name_regions(launch, {{address, operand.from_bytes, operand.name}, {workspace, operand.bytes, "workspace"}});
  launch_pack(size_of(lowering.inner.dtype), launch, now);
  address = workspace, workspace += operand.bytes;
}

}  // namespace

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
  l.inner = with_groups(l.outer, l.outer.groups, round_up(c, vector), round_up(k, vector));
  l.inner.layout = Layout::nhwc;
  const PackedOperand x = activations("x", l.outer, c, l.inner.c_per_group(), p.in);
  const PackedOperand gy = activations("gy", l.outer, k, l.inner.k_per_group(), p.out);
  const PackedOperand w = weights(p, merged, l.inner);
  l.a = pass == Pass::dgrad ? gy : x;
  l.b = pass == Pass::wgrad ? gy : w;
  l.unpacks = pass == Pass::wgrad && w.is_packed;
  l.is_identity = !l.a.is_packed && !l.b.is_packed && !l.unpacks;
  if (l.unpacks) l.back = unpack_params(p, merged, l.inner);
  return l;
}

std::string Lowering::describe() const {
  std::string text;
  for (const PackedOperand* operand : {&a, &b})
    if (operand->is_packed) text += concat(text.empty() ? ", packs " : " and ", operand->name);
  if (merged > 1) text += concat(", ", merged, " groups in one");
  return unpacks ? text + ", unpacks the result" : text;
}

std::string refuse_packing(const Lowering& lowering) {
  for (const PackedOperand* operand : {&lowering.a, &lowering.b})
    if (operand->is_packed && blocks_of(operand->params) > largest_grid)
      return concat("packing ", operand->name, " needs more than 2^31 - 1 blocks");
  return "";
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
  name_regions(launch, {{args.workspace, elements * slices * int64_t(sizeof(float)), "workspace"},
                        {args.out, now.rows * now.taps * now.channels * size_of(dtype), "output"}});
  if (dtype == DType::f16) return launch_unpack<f16>(launch, now);
  dtype == DType::bf16 ? launch_unpack<bf16>(launch, now) : launch_unpack<float>(launch, now);
}

Cost packing_cost(const Lowering& lowering) {
  Cost cost;
  const DType dtype = lowering.inner.dtype;
  for (const PackedOperand* operand : {&lowering.a, &lowering.b})
    if (operand->is_packed) cost = cost + roofline(dtype, {1, 0, 1, double(operand->from_bytes + operand->bytes)});
  if (lowering.unpacks) cost = cost + roofline(dtype, {1, 0, 1, 4.0 * double(lowering.inner.w_elements())});
  return cost;
}

GatherParams lowered_params(const Lowering& lowering, Pass pass, const BlockTile& tile, int64_t vector) {
  GatherParams params = gather_params(lowering.inner, pass, tile, vector);
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
