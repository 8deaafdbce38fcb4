// Atomic read-modify-write; each returns the old value. Default plans use none: their order is not deterministic.
//   atomic_add: float, double, int, unsigned, uint64;  atomic_max, atomic_min: int, unsigned, uint64
//   on a global pointer, or on element i of a Shared
#pragma once

#include "device/memory.h"
#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/atomic.h"
#endif

namespace fastconv::device {

using uint64 = unsigned long long;

#if defined(FASTCONV_EMULATOR)

template <class T>
T atomic_add(T* p, same_t<T> value, FC_SITE) {
  return emulator::atomic_global(p, [&](T old) { return T(old + value); }, site);
}
template <class T>
T atomic_max(T* p, same_t<T> value, FC_SITE) {
  return emulator::atomic_global(p, [&](T old) { return old > value ? old : value; }, site);
}
template <class T>
T atomic_min(T* p, same_t<T> value, FC_SITE) {
  return emulator::atomic_global(p, [&](T old) { return old < value ? old : value; }, site);
}
template <class T>
T atomic_add(Shared<T> s, int i, same_t<T> value, FC_SITE) {
  return emulator::atomic_shared<T>(s.span(), i, [&](T old) { return T(old + value); }, site);
}
template <class T>
T atomic_max(Shared<T> s, int i, same_t<T> value, FC_SITE) {
  return emulator::atomic_shared<T>(s.span(), i, [&](T old) { return old > value ? old : value; }, site);
}
template <class T>
T atomic_min(Shared<T> s, int i, same_t<T> value, FC_SITE) {
  return emulator::atomic_shared<T>(s.span(), i, [&](T old) { return old < value ? old : value; }, site);
}

#else

template <class T>
FC_DEVICE T atomic_add(T* p, same_t<T> value) {
  return atomicAdd(p, value);
}
template <class T>
FC_DEVICE T atomic_max(T* p, same_t<T> value) {
  return atomicMax(p, value);
}
template <class T>
FC_DEVICE T atomic_min(T* p, same_t<T> value) {
  return atomicMin(p, value);
}
template <class T>
FC_DEVICE T atomic_add(Shared<T> s, int i, same_t<T> value) {
  return atomicAdd(s.pointer() + i, value);
}
template <class T>
FC_DEVICE T atomic_max(Shared<T> s, int i, same_t<T> value) {
  return atomicMax(s.pointer() + i, value);
}
template <class T>
FC_DEVICE T atomic_min(Shared<T> s, int i, same_t<T> value) {
  return atomicMin(s.pointer() + i, value);
}

#endif

}  // namespace fastconv::device
