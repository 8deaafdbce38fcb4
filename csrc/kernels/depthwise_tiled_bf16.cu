#include "kernels/depthwise_tiled_instances.h"

namespace fastconv::kernels {
FASTCONV_DEPTHWISE_TILED_INSTANCES(bf16)
}  // namespace fastconv::kernels
