#include "kernels/depthwise.h"
#include "kernels/depthwise_images.h"

namespace fastconv::kernels {

template <class T>
void launch_depthwise(bool channels_last, bool vectors, const device::Launch& launch, const DepthwiseParams& params) {
  if (!channels_last) return device::launch(depthwise<T, 1, false>, launch, params);
  if (vectors) return device::launch(depthwise<T, vector_length<T>, true>, launch, params);
  device::launch(depthwise<T, 1, true>, launch, params);
}
template <class T>
void launch_depthwise_wgrad(bool channels_last, const device::Launch& launch, const WgradParams& params) {
  if (channels_last) return device::launch(depthwise_wgrad<T, true>, launch, params);
  device::launch(depthwise_wgrad<T, false>, launch, params);
}

template <class T>
void launch_depthwise_images(const device::Launch& launch, const DepthwiseImagesParams& params) {
  device::launch(depthwise_images<T>, launch, params);
}

#define FASTCONV_DEPTHWISE_INSTANCES(T)                                                         \
  template void launch_depthwise<T>(bool, bool, const device::Launch&, const DepthwiseParams&); \
  template void launch_depthwise_wgrad<T>(bool, const device::Launch&, const WgradParams&);

FASTCONV_DEPTHWISE_INSTANCES(double)
FASTCONV_DEPTHWISE_INSTANCES(float)
FASTCONV_DEPTHWISE_INSTANCES(f16)
FASTCONV_DEPTHWISE_INSTANCES(bf16)

template void launch_depthwise_images<float>(const device::Launch&, const DepthwiseImagesParams&);
template void launch_depthwise_images<f16>(const device::Launch&, const DepthwiseImagesParams&);
template void launch_depthwise_images<bf16>(const device::Launch&, const DepthwiseImagesParams&);

}  // namespace fastconv::kernels
