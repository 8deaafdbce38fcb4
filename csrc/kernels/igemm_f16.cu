#include "kernels/igemm_instances.h"

namespace fastconv::kernels {
FASTCONV_IGEMM_INSTANCES(f16, Math::ieee)
}  // namespace fastconv::kernels
