// Shared by the planners of the convolution kernels.
#pragma once

#include "kernels/direct_params.h"
#include "planner/cost.h"
#include "planner/gpu.h"

namespace fastconv::planner {

inline int64_t accumulator_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }
inline int64_t vector_elements(DType dtype) { return dtype == DType::f64 ? 2 : 4; }

// The implicit GEMM of a pass, per group: rows x columns, summed over depth; columns and depth of the longest phase.
struct Gemm {
  int64_t rows = 0, columns = 0, depth = 0, phases = 1;
};
Gemm gemm_of(const ConvProblem& p, Pass pass);

// A block's share of it.
struct BlockTile {
  int rows = 0, columns = 0;
};
int64_t tiles_of(const ConvProblem& p, const Gemm& gemm, const BlockTile& tile);

// fprop's axis (source x) or dgrad's (source gy). With one position the stride means nothing, with one tap the
// dilation.
kernels::DirectAxis axis_of(const ConvProblem& p, int i, bool transposed);
// Strides of the source, the output and the filter of fprop, or (transposed) of dgrad.
void set_strides(kernels::GatherParams& params, const ConvProblem& p, bool transposed);
// Why no kernel can address the problem; empty if they can.
std::string refuse_size(const ConvProblem& p);

// wgrad sums the positions in slices: as many as two blocks an SM leave room for, with `tiles` blocks each, none
// shorter than 256 positions nor longer than 8192 (a float32 sum of more loses digits), within the workspace allowed:
// by the caller, else 64 MiB. A slice is a multiple of `unit` positions long.
struct Slices {
  int64_t count = 1, length = 0;
};
Slices slices_of(const ConvProblem& p, int64_t tiles, const PlanOptions& options, int64_t unit = 16);
// The second stage of wgrad and bgrad: adds up the slices in the workspace.
void sum_slices(DType dtype, const ConvArgs& args, int64_t elements, int64_t slices);

// What a pass takes as a GEMM in tiles: stages of `depth`, at `efficiency` of `peak` FLOP/s (0: of the CUDA cores).
Cost gemm_cost(const ConvProblem& p, Pass pass, const PlanOptions& options, const BlockTile& tile, int64_t depth,
               double efficiency, double peak, const Footprint& footprint = {});

// What every launch of a pass needs besides the addresses. `vector`: elements that a vector store writes.
kernels::GatherParams gather_params(const ConvProblem& p, Pass pass, const PlanOptions& options, const BlockTile& tile,
                                    int64_t vector);
kernels::WgradParams wgrad_params(const ConvProblem& p, const BlockTile& tile, const Slices& slices, int64_t vector);
inline void set_addresses(kernels::GatherParams& params, const ConvArgs& args) {
  params.source = args.a, params.filter = args.b, params.out = args.out;
  params.bias = args.bias, params.residual = args.residual;
}
inline void set_epilogue(kernels::GatherParams& params, const PlanOptions& options) {
  params.activation = options.activation, params.slope = options.slope;
}
// Traffic of a pass, with the residual.
inline double traffic(const ConvProblem& p, Pass pass, const PlanOptions& options) {
  return p.bytes(pass) + (options.residual ? double(p.y_elements() * size_of(p.dtype)) : 0);
}
// Names the memory of fprop or dgrad (operands of `p`, the result of `result`), and of wgrad.
void name_gather_regions(device::Launch& launch, const ConvProblem& p, const ConvProblem& result, Pass pass,
                         const ConvArgs& args);
// `slices` of accumulators, or, if 0, the weight gradient.
void name_wgrad_regions(device::Launch& launch, const ConvProblem& p, const void* x, const void* gy, void* out,
                        int64_t slices);

std::vector<Kernel<ConvProblem>> direct_entries();  // gpu_direct.cpp
std::vector<Kernel<ConvProblem>> igemm_entries();   // gpu_igemm.cpp
Kernel<ConvProblem> depthwise_tiled_entry();        // gpu_depthwise_tiled.cpp
Kernel<ConvProblem> depthwise_toeplitz_entry();     // gpu_depthwise_toeplitz.cpp
Kernel<ConvProblem> depthwise_entry();              // gpu_depthwise.cpp
Kernel<ConvProblem> bias_entry();                   // gpu_bias.cpp

}  // namespace fastconv::planner
