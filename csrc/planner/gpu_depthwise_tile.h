// How the tiled depthwise kernels cut a problem into blocks: gpu_depthwise_tile.cpp chooses, gpu_depthwise_tiled.cpp
// plans with it.
#pragma once

#include <functional>

#include "kernels/depthwise_params.h"
#include "kernels/depthwise_tile_params.h"
#include "planner/gpu_conv.h"

namespace fastconv::planner {

constexpr int64_t tile_shared_limit = 96 * 1024;  // what every chip since sm_80 can give one block

// ---- tiles, for all passes ----

inline int64_t round_up(int64_t value, int64_t unit) { return ceil_div(value, unit) * unit; }

// The axes of the tile; strips of outputs run along the second.
struct TileAxes {
  kernels::TileAxis axis[3];
  int order[3] = {0, 1, 2};  // the problem's axes: a line of channel vectors is laid along the second
};
TileAxes tile_axes(const ConvProblem& p, Pass pass);

// What is chosen: outputs of a tile, channels (in words; channels last) and planes of a block, those of x.
struct Cut {
  int64_t tile[3], words, planes;
};
void visit_cuts(const ConvProblem& p, const TileAxes& axes, const std::function<void(const Cut&)>& visit);

// Strips of a tile, for each phase of the height, and the positions that they cover.
struct Strips {
  int64_t count, positions;
};
Strips strips_of(const kernels::TileAxis& down);

// The patch, and the row of zeros before it, of a source with `per` channels for each of x. Returns their bytes. Lanes
// take planes that are `plane_step` apart.
int64_t lay_out(const ConvProblem& p, const TileAxes& axes, const Cut& cut, int64_t per, kernels::DepthwiseTile& tile,
                int64_t plane_step = 1);
// Channels that a thread takes: of several filters a channel one, for they would read few of the source.
inline int vector_of(const ConvProblem& p) {
  return p.layout == Layout::nhwc && p.k == p.c ? int(4 / size_of(p.dtype)) : 1;
}
// Copies as wide as the tile and the source's address allow.
void set_copies(kernels::DepthwiseTile& tile, bool channels_last, DType dtype, const void* source);
// Of all blocks, in whole sectors.
double staged_bytes(const ConvProblem& p, const kernels::DepthwiseTile& tile);

// ---- fprop and dgrad ----

struct DepthwiseTiling {
  kernels::DepthwiseTiledParams params;  // but for addresses, and copies that an address is too odd for
  int vector = 1, strip_taps = 3, step = 1;
  int64_t blocks = 0, shared_bytes = 0;
  double staged_bytes = 0, stored_bytes = 0;  // of all blocks, in whole sectors
};

// All but the tensors, for one way to cut.
DepthwiseTiling cut_up(const ConvProblem& p, Pass pass, const TileAxes& axes, const Cut& cut);
// Strides and epilogue.
void set_tensors(kernels::DepthwiseTiledParams& params, const ConvProblem& p, Pass pass, const TileAxes& axes,
                 const PlanOptions& options);
// Of one block, alone on an SM; `result_instructions`: of each sum, when it is complete.
double block_cycles(const ConvProblem& p, const DepthwiseTiling& tiling, double result_instructions);
// Why the kernel lacks such axes; empty if it has them.
std::string refuse_axes(const ConvProblem& p, const TileAxes& axes);
// Why there is no such tiling; empty if there is.
std::string refuse_tiling(const ConvProblem& p, Pass pass);
// The cheapest tile of fprop or dgrad. Of a problem that is not refused.
DepthwiseTiling tiling_of(const ConvProblem& p, Pass pass, const PlanOptions& options);
Cost tiling_cost(const ConvProblem& p, Pass pass, const DepthwiseTiling& tiling, const PlanOptions& options);

// ---- dgrad where padding repeats the input: gpu_depthwise_images.cpp ----

// How a pass is made of the tiled kernel and, where padding holds images of elements, kernels/depthwise_images.h.
struct Images {
  ConvProblem tiled;                        // what the tiled kernel computes
  kernels::DepthwiseImagesParams params{};  // but for addresses
  int64_t blocks = 0, workspace_bytes = 0;  // no blocks: there are no images
  Cost cost{};

  std::string describe() const;
};
// The cheaper way for a batch of kReferenceBatch, within the workspace allowed.
Images images_of(const ConvProblem& p, Pass pass, const PlanOptions& options);
// `args` are the pass's own.
ConvArgs args_of_tiled(const Images& images, const ConvArgs& args);
void add_images(const ConvProblem& p, const Images& images, const ConvArgs& args);

// ---- wgrad: gpu_depthwise_sums.cpp ----

std::string refuse_sums(const ConvProblem& p, const PlanOptions& options);
Cost sums_cost(const ConvProblem& p, const PlanOptions& options);
Prepared<ConvProblem> prepare_sums(const ConvProblem& p, const PlanOptions& options);

}  // namespace fastconv::planner
