#include "kernels/igemm_instances.h"

namespace fastconv::kernels {
FASTCONV_IGEMM_INSTANCES(float, Math::tf32)
}  // namespace fastconv::kernels
