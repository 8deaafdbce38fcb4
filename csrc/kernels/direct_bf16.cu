#include "kernels/direct_instances.h"

namespace fastconv::kernels {
FASTCONV_DIRECT_INSTANCES(bf16)
}  // namespace fastconv::kernels
