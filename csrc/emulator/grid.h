// One launch: what all its blocks share.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "device/launch.h"
#include "emulator/settings.h"

namespace fastconv::emulator {

class GlobalRaces;

struct Grid {
  const device::Launch& launch;
  Invoke invoke;
  void (*kernel)();
  const void* params;
  Settings settings;
  int64_t blocks = 0;
  int64_t serial = 0;  // of the launch
  GlobalRaces* races = nullptr;
};

}  // namespace fastconv::emulator
