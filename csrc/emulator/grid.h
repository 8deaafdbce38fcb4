// One launch: what all its blocks share.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "device/launch.h"
#include "emulator/settings.h"

namespace fastconv::emulator {

struct Grid {
  const device::Launch& launch;
  Invoke invoke;
  void (*kernel)();
  const void* params;
  Settings settings;
  int64_t blocks = 0;
};

}  // namespace fastconv::emulator
