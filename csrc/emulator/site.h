// Where in the kernel's source an operation stands. FC_SITE is the last parameter of every emulated primitive: its
// default argument is evaluated at the call, so that errors and counters name the kernel's line and not ours.
#pragma once

#include <bit>
#include <source_location>

namespace fastconv::emulator {
using Site = std::source_location;

// The compiler's static record of the call: one for each call expression and instantiation.
inline const void* key_of(Site site) {
  static_assert(sizeof(Site) == sizeof(void*));
  return std::bit_cast<const void*>(site);
}

inline bool same_site(Site a, Site b) {
  return key_of(a) == key_of(b) || (a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name());
}
}  // namespace fastconv::emulator

#define FC_SITE ::fastconv::emulator::Site site = ::fastconv::emulator::Site::current()
