// Warp shuffles and votes, see device/warp.h.
#pragma once

#include <cstring>

#include "emulator/block.h"

namespace fastconv::emulator {

enum class Shuffle : uint8_t { index, exclusive_or, down, up };

uint64_t shuffle_bits(Shuffle kind, uint32_t mask, uint64_t value, int operand, Site site);
uint32_t ballot(uint32_t mask, bool value, Site site);

template <class T>
T shuffle(Shuffle kind, uint32_t mask, T value, int operand, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle_bits(kind, mask, bits, operand, site);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fastconv::emulator
