#include "kernels/pool_instances.h"

namespace fastconv::kernels {
FASTCONV_POOL_INSTANCES(double)
}  // namespace fastconv::kernels
