// How the tiled depthwise kernels cut a problem into blocks: gpu_depthwise_tile.cpp chooses, gpu_depthwise_tiled.cpp
// plans with it.
#pragma once

#include "kernels/depthwise_tile_params.h"
#include "planner/gpu_conv.h"

namespace fastconv::planner {

constexpr int64_t tile_shared_limit = 96 * 1024;  // what every chip since sm_80 can give one block

struct DepthwiseTiling {
  kernels::DepthwiseTiledParams params;  // but for addresses, and copies that an address is too odd for
  int vector = 1, strip_taps = 3, step = 1;
  int64_t blocks = 0, shared_bytes = 0;
  double staged_bytes = 0;  // of all blocks
};

// Why there is no such tiling; empty if there is.
std::string refuse_tiling(const ConvProblem& p, Pass pass);
// The cheapest tile of fprop or dgrad. Of a problem that is not refused.
DepthwiseTiling tiling_of(const ConvProblem& p, Pass pass, const PlanOptions& options);
Cost tiling_cost(const ConvProblem& p, Pass pass, const DepthwiseTiling& tiling, const PlanOptions& options);
// Copies as wide as the tile and the source's address allow.
void set_copies(kernels::DepthwiseTiledParams& params, DType dtype, const void* source);

}  // namespace fastconv::planner
