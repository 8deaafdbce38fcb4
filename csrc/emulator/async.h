// Asynchronous copies, see device/async.h.
#pragma once

#include "emulator/block.h"

namespace fastconv::emulator {

// Throws if an asynchronous operation in flight is going to write any of these shared bytes.
void check_pending(uint32_t address, int bytes, const char* what, Site site);

// `global` is null for a zero-fill.
void cp_async(uint32_t shared_address, const void* global, int bytes, Site site);
void cp_async_commit();
void cp_async_wait(int groups, Site site);

}  // namespace fastconv::emulator
