// A convolution that the tensor-core kernels do not read as it lies, brought to one they do: channels first, channels
// that no 16-byte copies make up, or few channels a group. Its operands are packed into the workspace (kernels/pack.h);
// the result goes straight to where it belongs, but for the weight gradient, which is unpacked.
#pragma once

#include "kernels/pack_params.h"
#include "planner/gpu_conv.h"

namespace fastconv::planner {

// One operand on its way into the workspace, or left as it is.
struct PackedOperand {
  bool is_packed = false, is_columns = false;  // by kernels/pack.h or, x only, by kernels/im2col.h
  const char* name = "";
  int64_t bytes = 0, from_bytes = 0;  // in the workspace (whole 256), and as given
  kernels::PackParams params{};
  kernels::Im2colParams columns{};
};

// Few input channels: `factor` = stride neighbours along the width are taken as one position with factor times the
// channels, so that the stride is 1. The filter gets `front` zero taps, and more behind, to begin and end at a whole
// stride. A patch embedding (filter == stride) is then a plain GEMM a row, with nothing moved.
struct Fold {
  int64_t factor = 1, front = 0, taps = 1;  // taps: along the width, zeros included
};

// Why it cannot be packed; empty if it can, or need not.
std::string refuse_packing(const PackedOperand& operand);
Cost packing_cost(const PackedOperand& operand, DType dtype);
// Launches it from `from` to `to`, which errors call by this name.
void run(const PackedOperand& operand, DType dtype, const void* from, void* to, const char* name, void* stream);

// For kernels that read planes: a tensor [N, C, axes], channels last, as planes `plane_pitch` elements apart, and back.
int64_t plane_pitch(DType dtype, const Axes& axes);
PackedOperand to_planes(const char* name, DType dtype, int64_t n, int64_t c, const Axes& axes);
PackedOperand from_planes(DType dtype, int64_t n, int64_t c, const Axes& axes);

struct Lowering {
  ConvProblem outer;  // as given, `merged` groups taken as one
  ConvProblem inner;  // what the kernel computes: channels last, whole vectors of channels a group
  Fold fold;
  int64_t merged = 1;       // groups that lie on the diagonal of one group of `inner`
  bool is_identity = true;  // nothing to do: outer == inner == the problem
  bool unpacks = false;     // wgrad: inner's weight gradient is not laid out as the problem's
  PackedOperand a, b;       // ConvArgs' operands of the pass
  kernels::UnpackParams back{};

  int64_t packed_bytes() const { return a.bytes + b.bytes; }
  std::string describe() const;
};

// The problem as it is.
Lowering as_given(const ConvProblem& p);
// Packed, as little of it as can be.
Lowering packed(const ConvProblem& p, Pass pass);
// x written out by windows: a plain GEMM. fprop and wgrad.
Lowering by_columns(const ConvProblem& p, Pass pass);

// Why an operand cannot be packed; empty if they can.
std::string refuse_packing(const Lowering& lowering);

// Packs what is to be packed at the beginning of the workspace; the arguments of the inner problem.
ConvArgs pack(const Lowering& lowering, const ConvArgs& args);
// inner's partial weight gradients, in the workspace of `args`, to args.out.
void unpack(const Lowering& lowering, const ConvArgs& args, int64_t slices);
Cost packing_cost(const Lowering& lowering);

// fprop's or dgrad's launch: the inner problem, whose result goes where the outer one's belongs.
kernels::GatherParams lowered_params(const Lowering& lowering, Pass pass, const PlanOptions& options,
                                     const BlockTile& tile, int64_t vector);

}  // namespace fastconv::planner
