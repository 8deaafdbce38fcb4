// Asynchronous copies, see device/async.h.
#pragma once

#include "emulator/block.h"

namespace fastconv::emulator {

// `global` is null for a zero-fill.
void cp_async(uint32_t shared_address, const void* global, int bytes, Site site);
void cp_async_commit();
void cp_async_wait(int groups, Site site);

}  // namespace fastconv::emulator
