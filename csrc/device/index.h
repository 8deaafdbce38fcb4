// Where a thread is.
//   fresh_block_index()   blockIdx.x, read anew: what is computed from it is computed again instead of being kept in
//                         registers since the last time (an epilogue's coordinates, across the main loop)
//   fresh_thread_index()  threadIdx.x, likewise
//   kept(v)               v, from a shuffle with the lane itself, by the full warp: the other way round, what ptxas
//   would
//                         compute anew at each use, since that is cheap, stays in a register
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

FC_DEVICE int fresh_thread_index() {
#if defined(FASTCONV_EMULATOR)
  return int(threadIdx.x);
#else
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
#endif
}

FC_DEVICE int kept(int value) {
#if defined(FASTCONV_EMULATOR)
  return value;
#else
  return __shfl_sync(0xffffffffu, value, int(threadIdx.x));  // modulo 32
#endif
}

}  // namespace fastconv::device
