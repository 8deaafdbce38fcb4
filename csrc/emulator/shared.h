// The shared memory of one block: the dynamic part, then the static arrays, in the order in which threads first come to
// them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/settings.h"
#include "emulator/site.h"

namespace fastconv::emulator {

constexpr int64_t max_shared = 227 * 1024;  // of a block, static and dynamic (compute capability 8.0: 163, 9.0: 227)
constexpr int64_t max_static_shared = 48 * 1024;
constexpr uint32_t shared_base = 1024;  // the first address, so that 0 is invalid
constexpr size_t shared_capacity = shared_base + max_shared + 2048;

struct StaticArray {
  Site site;
  uint32_t begin, end;
};

class SharedMemory {
 public:
  SharedMemory();
  void start(int64_t dynamic_bytes, Poison poison);

  unsigned char* at(uint32_t address) { return bytes_.get() + address; }
  uint32_t dynamic_end() const { return dynamic_end_; }
  // The array that FC_STATIC_SHARED declares at this place.
  const StaticArray& static_array(int64_t bytes, Site site);
  // Throws unless [address, address + bytes) lies in one allocation and is aligned to its size.
  void check(int64_t address, int bytes, const char* what, Site site) const;
  void poison(uint32_t begin, uint32_t end);

  // Bytes that an asynchronous operation is going to write, and whose: they are not to be touched until it is waited
  // for.
  void set_pending(uint32_t address, int bytes, int thread);
  void clear_pending(uint32_t address, int bytes);
  bool any_pending() const { return pending_count_ > 0; }
  int pending_thread(uint32_t address) const { return pending_[address] - 1; }  // -1: none

 private:
  std::unique_ptr<unsigned char[]> bytes_;
  std::vector<uint16_t> pending_;  // for each byte, thread + 1
  int pending_count_ = 0;          // bytes
  std::vector<StaticArray> statics_;
  uint32_t dynamic_end_ = 0, static_begin_ = 0, static_end_ = 0;
  Poison poison_ = Poison::nan;
};

}  // namespace fastconv::emulator
