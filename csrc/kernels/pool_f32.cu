#include "kernels/pool_instances.h"

namespace fastconv::kernels {
FASTCONV_POOL_INSTANCES(float)
}  // namespace fastconv::kernels
