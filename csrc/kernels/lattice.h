// Walking an index space without division: a position is a number in mixed radix, advanced by adding digits.
#pragma once

#include "device/device.h"

namespace fastconv::kernels {

using namespace fastconv::device;

// Four digits, slowest first: (sample, d, h, w), (channel, t, r, s) or (t, r, s, channel). The slowest has no carry: a
// position past the end has digit[0] >= extent[0].
struct Extents {
  int of[4];

  FC_DEVICE int64_t volume() const { return int64_t(of[0]) * of[1] * of[2] * of[3]; }
};

struct Position {
  int digit[4];

  // Divides, so only for a first position; the three fast extents must multiply to less than 2^31.
  FC_DEVICE static Position at(int64_t linear, const Extents& extents) {
    Position p;
    const int inner = extents.of[1] * extents.of[2] * extents.of[3];
    p.digit[0] = int(linear / inner);
    int rest = int(linear - int64_t(p.digit[0]) * inner);
    p.digit[3] = rest % extents.of[3], rest /= extents.of[3];
    p.digit[2] = rest % extents.of[2], rest /= extents.of[2];
    p.digit[1] = rest;
    return p;
  }

  FC_DEVICE void advance(const Position& by, const Extents& extents) {
    int carry = 0;
    FC_UNROLL
    for (int i = 3; i > 0; --i) {
      digit[i] += by.digit[i] + carry;
      carry = digit[i] >= extents.of[i];
      if (carry) digit[i] -= extents.of[i];
    }
    digit[0] += by.digit[0] + carry;
  }

  FC_DEVICE bool within(const Extents& extents) const { return digit[0] < extents.of[0]; }
};

// Where a position lies in a tensor: its element offset and its coordinates on the three spatial axes. Two spots add:
// the window's origin and a tap within the window.
struct Spot {
  int64_t offset;
  int at[3];

  FC_DEVICE bool inside(const Spot& other, const int (&extent)[3]) const {
    bool in = true;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) in = in && unsigned(at[i] + other.at[i]) < unsigned(extent[i]);
    return in;
  }

  // A coordinate that no other spot brings back inside (coordinates are below 2^30).
  FC_DEVICE void move_outside() { at[2] = -(1 << 30); }
};

// Affine map from positions to spots. Spatial digits are digit[First], [First + 1], [First + 2].
template <int First>
struct Lattice {
  int64_t base, stride[4];
  int origin[3], step[3];

  FC_DEVICE int64_t offset(const Position& p) const {
    int64_t sum = base;
    FC_UNROLL
    for (int i = 0; i < 4; ++i) sum += p.digit[i] * stride[i];
    return sum;
  }
  FC_DEVICE Spot spot(const Position& p) const {
    Spot s;
    s.offset = offset(p);
    FC_UNROLL
    for (int i = 0; i < 3; ++i) s.at[i] = origin[i] + p.digit[First + i] * step[i];
    return s;
  }
};

}  // namespace fastconv::kernels
