#include "kernels/direct_instances.h"

namespace fastconv::kernels {
FASTCONV_DIRECT_INSTANCES(double)
}  // namespace fastconv::kernels
