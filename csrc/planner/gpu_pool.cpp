#include "planner/gpu.h"
namespace fastconv::planner {
std::vector<Kernel<PoolProblem>> direct_pool_kernels() { return {}; }
}  // namespace fastconv::planner
