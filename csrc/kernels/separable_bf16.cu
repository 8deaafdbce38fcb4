#include "kernels/separable_instances.h"

namespace fastconv::kernels {
FASTCONV_SEPARABLE_INSTANCES(bf16)
}  // namespace fastconv::kernels
