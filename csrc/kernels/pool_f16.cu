#include "kernels/pool_instances.h"

namespace fastconv::kernels {
FASTCONV_POOL_INSTANCES(f16)
}  // namespace fastconv::kernels
