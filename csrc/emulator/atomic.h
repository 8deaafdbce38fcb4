// Atomic operations, see device/atomic.h. Blocks run on several OS threads, so global ones are atomic on the host, too.
#pragma once

#include "emulator/memory.h"

namespace fastconv::emulator {

template <class T>
using atomic_word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class T, class Update>
T atomic_global(T* p, Update update, Site site) {
  check_global(p, sizeof(T), Access::atomic, site);
  auto* word = reinterpret_cast<atomic_word<T>*>(p);
  atomic_word<T> old_bits = __atomic_load_n(word, __ATOMIC_RELAXED), new_bits;
  T old;
  do {
    memcpy(&old, &old_bits, sizeof old);
    const T updated = update(old);
    memcpy(&new_bits, &updated, sizeof updated);
  } while (!__atomic_compare_exchange_n(word, &old_bits, new_bits, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

template <class T, class Update>
T atomic_shared(const SharedSpan& span, int i, Update update, Site site) {
  unsigned char* p = check_shared(span, int64_t(i) * int64_t(sizeof(T)), sizeof(T), Access::atomic, site);
  T old;
  memcpy(&old, p, sizeof old);
  const T updated = update(old);
  memcpy(p, &updated, sizeof updated);
  return old;
}

}  // namespace fastconv::emulator
