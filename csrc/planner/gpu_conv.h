// Shared by the planners of the convolution kernels.
#pragma once

#include "kernels/direct_params.h"
#include "planner/gpu.h"

namespace fastconv::planner {

inline int64_t accumulator_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }
inline int64_t vector_elements(DType dtype) { return dtype == DType::f64 ? 2 : 4; }

// fprop's axis (source x) or dgrad's (source gy). With one position the stride means nothing, with one tap the
// dilation.
kernels::DirectAxis axis_of(const ConvProblem& p, int i, bool transposed);
// Strides of the source, the output and the filter of fprop, or (transposed) of dgrad.
void set_strides(kernels::GatherParams& params, const ConvProblem& p, bool transposed);
// Why no kernel can address the problem; empty if they can.
std::string refuse_size(const ConvProblem& p);

// wgrad sums the positions in slices: as many as two blocks an SM leave room for, with `tiles` blocks each, none
// shorter than 256 positions nor longer than 8192 (a float32 sum of more loses digits), within the workspace allowed:
// by the caller, else 64 MiB.
struct Slices {
  int64_t count = 1, length = 0;
};
Slices slices_of(const ConvProblem& p, int64_t tiles, const PlanOptions& options);
// The second stage of wgrad and bgrad: adds up the slices in the workspace.
void sum_slices(DType dtype, const ConvArgs& args, int64_t elements, int64_t slices);

Kernel<ConvProblem> depthwise_entry();  // gpu_depthwise.cpp

}  // namespace fastconv::planner
