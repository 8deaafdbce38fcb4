// Asynchronous copies from global to shared memory (sm_80).
//   cp_async<Bytes>(shared_address, global, on)   4, 8 or 16 bytes, both sides aligned; zeros where `on` is 0; the
//   global
//                                                 address is not looked at then
//   cp_async_commit()                             closes this thread's current group
//   cp_async_wait<N>()                            waits until at most the N youngest of this thread's groups are in
//   flight
// A wait covers the calling thread's own copies only: a sync_threads makes them visible to the others.
// Emulator: the destination is poison from the issue to the wait, and touching it is an error.
#pragma once

#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/async.h"
#endif

namespace fastconv::device {

#if defined(FASTCONV_EMULATOR)

template <int Bytes>
void cp_async(uint32_t shared_address, const void* global, uint32_t on = 1, FC_SITE) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  emulator::cp_async(shared_address, on ? global : nullptr, Bytes, site);
}
inline void cp_async_commit() { emulator::cp_async_commit(); }
template <int N>
void cp_async_wait(FC_SITE) {
  emulator::cp_async_wait(N, site);
}

#else

template <int Bytes>
FC_DEVICE void cp_async(uint32_t shared_address, const void* global, uint32_t on = 1) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 16) {  // past L1: what is copied to shared memory is not read twice by this SM
    asm volatile("{ .reg .pred off;\n setp.eq.s32 off, %2, 0;\n cp.async.cg.shared.global [%0], [%1], 16, off; }" ::"r"(
                     shared_address),
                 "l"(global), "r"(on)
                 : "memory");
  } else {
    asm volatile("{ .reg .pred off;\n setp.eq.s32 off, %3, 0;\n cp.async.ca.shared.global [%0], [%1], %2, off; }" ::"r"(
                     shared_address),
                 "l"(global), "n"(Bytes), "r"(on)
                 : "memory");
  }
}
FC_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
FC_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif

}  // namespace fastconv::device
