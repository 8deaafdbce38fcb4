#include "kernels/im2col.h"
#include "kernels/pack.h"

namespace fastconv::kernels {

void launch_pack(int64_t element, const device::Launch& launch, const PackParams& params) {
  if (element == 2) {
    device::launch(pack<uint16_t>, launch, params);
  } else {
    device::launch(pack<uint32_t>, launch, params);
  }
}

void launch_im2col(int64_t unit, const device::Launch& launch, const Im2colParams& params) {
  if (unit == 16) {
    device::launch(im2col<Vec<uint32_t, 4>>, launch, params);
  } else if (unit == 2) {
    device::launch(im2col<uint16_t>, launch, params);
  } else {
    device::launch(im2col<uint32_t>, launch, params);
  }
}

template <class T>
void launch_unpack(const device::Launch& launch, const UnpackParams& params) {
  device::launch(unpack<T>, launch, params);
}

template void launch_unpack<float>(const device::Launch&, const UnpackParams&);
template void launch_unpack<f16>(const device::Launch&, const UnpackParams&);
template void launch_unpack<bf16>(const device::Launch&, const UnpackParams&);

}  // namespace fastconv::kernels
