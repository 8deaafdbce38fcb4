// What the emulator throws: the mistake, and exactly where the kernel made it.
#pragma once

#include "emulator/site.h"
#include "fastconv/status.h"

namespace fastconv::emulator {

struct EmulatorError : LaunchError {
  using LaunchError::LaunchError;
};

// "kernels/direct.cuh:57"
std::string describe(Site site);

std::string hex(uint32_t mask);

// Throws with the kernel, block and thread that is running, and `site`, in front of the message.
[[noreturn]] void fail_text(Site site, const std::string& message);

template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void fail(Site site, const Parts&... message) {
  fail_text(site, concat(message...));
}

}  // namespace fastconv::emulator
