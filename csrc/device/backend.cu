// The CUDA backend's face: which devices there are, or why there is none. Works without a driver: the static CUDA
// runtime opens it lazily.
#include <cuda_runtime.h>

#include <cstdio>

#include "fastconv/plan.h"

#ifndef FASTCONV_ARCHITECTURES
#define FASTCONV_ARCHITECTURES "unknown"
#endif

namespace fastconv {
namespace {

std::string version(int number) { return number ? concat(number / 1000, ".", number % 1000 / 10) : "none"; }

std::string describe_device(int ordinal) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, ordinal);
  if (status != cudaSuccess) return concat("device ", ordinal, ": ", cudaGetErrorString(status));
  char memory[32];
  snprintf(memory, sizeof memory, "%.1f GiB", double(properties.totalGlobalMem) / (1 << 30));
  return concat(properties.name, " (sm_", properties.major, properties.minor, ", ", properties.multiProcessorCount,
                " SMs, ", memory, ")");
}

}  // namespace

BackendInfo backend_info() {
  BackendInfo info;
  info.name = "cuda";
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  info.details = {
      {"driver", version(driver)}, {"runtime", version(runtime)}, {"architectures", FASTCONV_ARCHITECTURES}};
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();  // an absent driver is a finding, not an error for the next call to trip over
  if (status != cudaSuccess) {
    info.reason = concat(cudaGetErrorName(status), ": ", cudaGetErrorString(status));
    return info;
  }
  for (int i = 0; i < count; ++i) info.devices.push_back(describe_device(i));
  info.available = count > 0;
  if (count == 0) info.reason = "the driver reports no device";
  return info;
}

}  // namespace fastconv
