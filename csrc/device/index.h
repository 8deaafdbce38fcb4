// Where a thread is.
//   fresh_block_index()   blockIdx.x, read anew: what is computed from it is computed again instead of being kept in
//                         registers since the last time (an epilogue's coordinates, across the main loop)
#pragma once

#include "device/types.h"

namespace fastconv::device {

FC_DEVICE int fresh_block_index() {
#if defined(FASTCONV_EMULATOR)
  return int(blockIdx.x);
#else
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
#endif
}

}  // namespace fastconv::device
