#include "kernels/depthwise_toeplitz.h"

namespace fastconv::kernels {

template <class T>
void launch_depthwise_toeplitz(int size, const device::Launch& launch, const ToeplitzParams& params) {
  if (size == 16) return device::launch(depthwise_toeplitz<T, 16>, launch, params);
  device::launch(depthwise_toeplitz<T, 32>, launch, params);
}

template void launch_depthwise_toeplitz<f16>(int, const device::Launch&, const ToeplitzParams&);
template void launch_depthwise_toeplitz<bf16>(int, const device::Launch&, const ToeplitzParams&);

}  // namespace fastconv::kernels
