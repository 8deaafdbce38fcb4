#include "emulator/shared.h"

#include <algorithm>
#include <cstring>

#include "emulator/error.h"

namespace fastconv::emulator {

SharedMemory::SharedMemory() : bytes_(new unsigned char[shared_capacity]), pending_(shared_capacity, uint16_t(0)) {}

void SharedMemory::start(int64_t dynamic_bytes, Poison poison_with) {
  poison_ = poison_with;
  if (pending_count_) std::fill(pending_.begin(), pending_.end(), uint16_t(0)), pending_count_ = 0;
  statics_.clear();
  dynamic_end_ = shared_base + uint32_t(dynamic_bytes);
  static_begin_ = static_end_ = (dynamic_end_ + 1023) / 1024 * 1024;
  poison(shared_base, dynamic_end_);
}

void SharedMemory::poison(uint32_t begin, uint32_t end) {
  if (poison_ == Poison::nan) {
    memset(at(begin), 0xff, end - begin);  // a NaN in every floating-point type
    return;
  }
  // Bytes of 0x41..0x4f make finite, conspicuous numbers of every floating-point type.
  for (uint32_t i = begin; i < end; ++i) *at(i) = static_cast<unsigned char>(0x41 + (i * 7 + i / 8) % 15);
}

const StaticArray& SharedMemory::static_array(int64_t bytes, Site site) {
  for (const StaticArray& array : statics_)
    if (same_site(array.site, site)) return array;
  const int64_t dynamic = dynamic_end_ - shared_base, total = static_end_ - static_begin_ + bytes;
  if (total > max_static_shared)
    fail(site, "static shared memory of ", total, " bytes, the limit is ", max_static_shared);
  if (total + dynamic > max_shared)
    fail(site, "shared memory of ", total, " static and ", dynamic, " dynamic bytes, the limit is ", max_shared);
  const uint32_t begin = static_end_, end = begin + uint32_t(bytes);
  static_end_ = (end + 127) / 128 * 128;
  poison(begin, end);
  statics_.push_back({site, begin, end});
  return statics_.back();
}

void SharedMemory::check(int64_t address, int bytes, const char* what, Site site) const {
  const int64_t dynamic = dynamic_end_ - shared_base;
  bool inside = address >= shared_base && address + bytes <= dynamic_end_;
  for (const StaticArray& array : statics_) inside |= address >= array.begin && address + bytes <= array.end;
  if (!inside)
    fail(site, what, " of ", bytes, " bytes at byte ", address - shared_base,
         " of shared memory, out of bounds: the block has ", dynamic, " dynamic bytes and ", statics_.size(),
         " static arrays");
  if (address % bytes)
    fail(site, what, ": misaligned: byte ", address - shared_base, " of shared memory is no multiple of ", bytes);
}

void SharedMemory::set_pending(uint32_t address, int bytes, int thread) {
  std::fill_n(pending_.begin() + address, bytes, uint16_t(thread + 1));
  pending_count_ += bytes;
}

void SharedMemory::clear_pending(uint32_t address, int bytes) {
  std::fill_n(pending_.begin() + address, bytes, uint16_t(0));
  pending_count_ -= bytes;
}

}  // namespace fastconv::emulator
