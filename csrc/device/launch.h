// Host side: starting a kernel. Never `<<<>>>`: the emulator has no such thing, and here errors get the kernel's name.
#pragma once

#include <string>
#include <vector>

#include "device/types.h"
#include "fastconv/status.h"

#if !defined(FASTCONV_EMULATOR)
#include <map>
#include <mutex>
#endif

namespace fastconv::device {

// Global memory a kernel may touch: an argument, or its workspace. The emulator refuses every other address.
struct Region {
  const void* address;
  int64_t bytes;
  const char* name;
};

struct Launch {
  const char* kernel;  // its name, for errors and counters
  Dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  void* stream = nullptr;
  std::vector<Region> regions{};
};

inline std::string describe(const Launch& launch) {
  const auto& [g, b] = std::pair(launch.grid, launch.block);
  return concat("kernel ", launch.kernel, " with grid (", g.x, ", ", g.y, ", ", g.z, "), block (", b.x, ", ", b.y, ", ",
                b.z, "), ", launch.shared_bytes, " bytes of dynamic shared memory");
}

#if defined(FASTCONV_EMULATOR)

}  // namespace fastconv::device
namespace fastconv::emulator {
// Calls `kernel` (really a void (*)(Params)) with the parameters, once for every thread.
using Invoke = void (*)(void (*kernel)(), const void* params);
void run_grid(const device::Launch& launch, Invoke invoke, void (*kernel)(), const void* params);
}  // namespace fastconv::emulator
namespace fastconv::device {

// Runs the grid on the host. Throws EmulatorError, a LaunchError, for what the device would refuse and for every
// mistake the emulator sees.
template <class Params>
void launch(void (*kernel)(Params), const Launch& config, const same_t<Params>& params) {
  const emulator::Invoke invoke = [](void (*erased)(), const void* p) {
    reinterpret_cast<void (*)(Params)>(erased)(*static_cast<const Params*>(p));
  };
  emulator::run_grid(config, invoke, reinterpret_cast<void (*)()>(kernel), &params);
}

#else

namespace detail {

inline void check(cudaError_t status, const Launch& config) {
  if (status == cudaSuccess) return;
  throw LaunchError(concat(cudaGetErrorName(status), ": ", cudaGetErrorString(status), ": ", describe(config)));
}

// More than 48 KB of dynamic shared memory must be asked for, once a kernel and device.
inline void allow_shared(const void* kernel, const Launch& config) {
  if (config.shared_bytes <= 48 * 1024) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  int device = 0;
  check(cudaGetDevice(&device), config);
  const std::lock_guard lock(mutex);
  size_t& bytes = allowed[{kernel, device}];
  if (bytes >= config.shared_bytes) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(config.shared_bytes)), config);
  bytes = config.shared_bytes;
}

}  // namespace detail

// Enqueues the kernel on config.stream of the current device. Throws LaunchError.
template <class Params>
void launch(void (*kernel)(Params), const Launch& config, const same_t<Params>& params) {
  const void* entry = reinterpret_cast<const void*>(kernel);
  detail::allow_shared(entry, config);
  void* arguments[] = {const_cast<void*>(static_cast<const void*>(&params))};
  const auto& [g, b] = std::pair(config.grid, config.block);
  detail::check(cudaLaunchKernel(entry, dim3(g.x, g.y, g.z), dim3(b.x, b.y, b.z), arguments, config.shared_bytes,
                                 static_cast<cudaStream_t>(config.stream)),
                config);
}

#endif

}  // namespace fastconv::device
