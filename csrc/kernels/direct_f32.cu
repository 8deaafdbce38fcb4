#include "kernels/direct_instances.h"

namespace fastconv::kernels {
FASTCONV_DIRECT_INSTANCES(float)
}  // namespace fastconv::kernels
