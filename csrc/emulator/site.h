// Where in the kernel's source an operation stands. FC_SITE is the last parameter of every emulated primitive: its
// default argument is evaluated at the call, so that errors and counters name the kernel's line and not ours.
#pragma once

#include <source_location>

namespace fastconv::emulator {
using Site = std::source_location;

inline bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name();
}
}  // namespace fastconv::emulator

#define FC_SITE ::fastconv::emulator::Site site = ::fastconv::emulator::Site::current()
