#include "kernels/separable_instances.h"

namespace fastconv::kernels {
FASTCONV_SEPARABLE_INSTANCES(f16)
}  // namespace fastconv::kernels
