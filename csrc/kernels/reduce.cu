#include "kernels/reduce.h"

namespace fastconv::kernels {

template <class T>
void launch_slices(const device::Launch& launch, const SliceParams& params) {
  device::launch(reduce_slices<T>, launch, params);
}
template <class T>
void launch_bias(const device::Launch& launch, const BiasParams& params) {
  device::launch(bias_sum<T>, launch, params);
}

#define FASTCONV_REDUCE_INSTANCES(T)                                         \
  template void launch_slices<T>(const device::Launch&, const SliceParams&); \
  template void launch_bias<T>(const device::Launch&, const BiasParams&);

FASTCONV_REDUCE_INSTANCES(double)
FASTCONV_REDUCE_INSTANCES(float)
FASTCONV_REDUCE_INSTANCES(f16)
FASTCONV_REDUCE_INSTANCES(bf16)

}  // namespace fastconv::kernels
