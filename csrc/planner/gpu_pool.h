// What the tables of pooling kernels share: gpu_pool.cpp, gpu_pool_staged.cpp, gpu_pool_march.cpp.
#pragma once

#include "kernels/pool_params.h"
#include "planner/cost.h"
#include "planner/gpu.h"

namespace fastconv::planner {

// The families of pooling kernels: in what order an average adds up.
constexpr const char* rows_first = "rows first";
constexpr const char* planes_in_groups = "planes in groups";

inline int vector_of(DType dtype) { return int(16 / size_of(dtype)); }
inline bool is_average(const PoolProblem& p) { return p.kind == PoolKind::average; }
inline int64_t pieces(const PoolProblem& p) { return p.layout == Layout::nhwc ? p.n : p.n * p.c; }
inline bool channel_vectors(const PoolProblem& p) { return p.layout == Layout::nhwc && p.c % vector_of(p.dtype) == 0; }
inline kernels::PoolWork work_of(Pass pass) {
  using kernels::PoolWork;
  return pass == Pass::fprop ? PoolWork::forward : pass == Pass::dgrad ? PoolWork::backward : PoolWork::gather;
}

// Source coordinates that `count` neighbouring written ones read on one axis, at most.
int64_t reach_of(const PoolProblem& p, Pass pass, int axis, int64_t count);
std::string refuse_size(const PoolProblem& p);
kernels::PoolParams pool_params(const PoolProblem& p, Pass pass, bool vectors);
void name_pool_regions(device::Launch& launch, const PoolProblem& p, Pass pass, const PoolArgs& args);
// Misaligned addresses (a slice of a bigger buffer) are walked by elements.
bool vectors_allowed(const PoolArgs& args, int64_t offset_bytes);
Prepared<PoolProblem> prepare_direct_pool(const PoolProblem& p, Pass pass, const PlanOptions& options);

inline void set_addresses(kernels::PoolParams& params, const PoolArgs& args) {
  params.src = args.src, params.dst = args.dst, params.offsets = args.offsets, params.indices = args.indices;
}

Kernel<PoolProblem> staged_pool_kernel();
Kernel<PoolProblem> march_pool_kernel();
Kernel<PoolProblem> global_pool_kernel();
Kernel<PoolProblem> unpool_kernel();

}  // namespace fastconv::planner
