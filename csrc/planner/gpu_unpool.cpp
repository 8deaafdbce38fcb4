// Max-unpooling: a kernel for each layout, and one for the derivative.
#include "planner/gpu_pool.h"
#include "planner/registers.h"

namespace fastconv::planner {
namespace {

using namespace kernels;

bool by_planes(const PoolProblem& p) { return p.layout == Layout::nchw || p.c == 1; }

int64_t blocks_of(const PoolProblem& p, Pass pass) {
  if (pass == Pass::pick) return ceil_div(p.y_elements(), pool_threads);
  return by_planes(p) ? ceil_div(p.n * p.c, pool_threads / 32) : ceil_div(p.n * p.c, pool_threads);
}

std::string refuse_unpool(const PoolProblem& p, Pass pass, const PlanOptions&) {
  if (pass != Pass::unpool && pass != Pass::pick) return concat("computes unpool and pick, not ", name_of(pass));
  if (is_average(p)) return "averages are not unpooled";
  if (p.n == 0) return "the tensors are empty: there is nothing to launch";
  if (std::max(volume(p.in), volume(p.out)) > largest_coordinate)
    return "one channel of a sample has more than 2^30 positions";
  if (blocks_of(p, pass) > largest_grid) return "needs more than 2^31 - 1 blocks";
  return "";
}

Cost cost_unpool(const PoolProblem& p, Pass pass, const PlanOptions&) {
  return roofline(p.dtype, {double(blocks_of(p, pass)),
                            0,
                            1,
                            p.bytes(pass),
                            0,
                            0,
                            {pool_threads, pass == Pass::pick ? pool_pick.count : pool_unpool.count, 0}});
}

Prepared<PoolProblem> prepare_unpool(const PoolProblem& p, Pass pass, const PlanOptions& options) {
  UnpoolParams params{};
  params.pieces = by_planes(p) ? p.n * p.c : p.n, params.channels = by_planes(p) ? 1 : p.c;
  params.large = int(volume(p.in)), params.small = int(volume(p.out));
  const int64_t blocks = blocks_of(p, pass);
  Prepared<PoolProblem> prepared;
  prepared.launch = [=, device = options.device](const PoolArgs& args) {
    const device::DeviceScope scope(device);
    UnpoolParams now = params;
    now.src = args.src, now.dst = args.dst, now.indices = args.indices;
    const bool pick = pass == Pass::pick;
    auto launch = one_dimensional(pick ? "pool_pick" : "pool_unpool", blocks, pool_threads, args.stream);
    const int64_t element = size_of(p.dtype), large = element * p.x_elements(), small = element * p.y_elements();
    name_regions(launch, {{args.src, pick ? large : small, pick ? "gx" : "y"},
                          {args.dst, pick ? small : large, "output"},
                          {args.indices, 8 * p.y_elements(), "indices"}});
    visit_dtype(p.dtype, [&](auto t) { launch_unpool<decltype(t)>(pick, launch, now); });
  };
  prepared.detail = concat("grid ", blocks,
                           pass == Pass::pick ? ", a thread a result"
                           : by_planes(p)     ? ", a warp a plane"
                                              : ", a thread a plane");
  return prepared;
}

}  // namespace

Kernel<PoolProblem> unpool_kernel() {
  return {"unpool", "max-unpooling and its derivative; of equal indices the last wins", refuse_unpool, cost_unpool,
          prepare_unpool};
}

}  // namespace fastconv::planner
