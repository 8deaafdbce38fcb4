// The current device, for the length of a launch. One device in the emulator.
#pragma once

#if !defined(FASTCONV_EMULATOR)
#include <cuda_runtime.h>

#include "fastconv/status.h"
#endif

namespace fastconv::device {

#if defined(FASTCONV_EMULATOR)

// The emulator checks every access against the regions a launch names; the GPU has no use for them.
constexpr bool checks_regions = true;

class DeviceScope {
 public:
  explicit DeviceScope(int) {}
  ~DeviceScope() {}
};

#else

constexpr bool checks_regions = false;

class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&before_), device);
    changed_ = before_ != device;
    if (changed_) check(cudaSetDevice(device), device);
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  static void check(cudaError_t status, int device) {
    if (status != cudaSuccess)
      throw LaunchError(
          concat(cudaGetErrorName(status), ": ", cudaGetErrorString(status), ": choosing device ", device));
  }
  int before_ = 0;
  bool changed_ = false;
};

#endif

}  // namespace fastconv::device
