// In and out of a band's buffer: where dtypes are converted, NCHW is transposed and borders are padded, so that the
// kernels need not know of any of them.
#pragma once

#include "cpu/band.h"
#include "cpu/kernels/vector.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A>
void fill(A* to, int64_t count, A value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// Between a tensor's element type and the kernels'.
template <class To, class From>
inline __attribute__((always_inline)) To convert(From value) {
  if constexpr (std::is_same_v<From, f16> || std::is_same_v<From, bf16>) {
    return To(widen(value));
  } else if constexpr (std::is_same_v<To, f16> || std::is_same_v<To, bf16>) {
    return narrow<To>(value);
  } else {
    return To(value);
  }
}

template <class To, class From>
void copy(To* __restrict to, const From* __restrict from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = convert<To>(from[i]);
}

typedef float Four __attribute__((vector_size(16)));
typedef float FourUnaligned __attribute__((vector_size(16), aligned(4), may_alias));

// to[j * to_by] = transpose of the 4x4 elements of 4 bytes at from[i * from_by].
inline void transpose_4x4(char* to, int64_t to_by, const char* const (&from)[4]) {
  Four row[4];
  for (int i = 0; i < 4; ++i) row[i] = *reinterpret_cast<const FourUnaligned*>(from[i]);
  const Four a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
             b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7),
             d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Four out[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                       __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) *reinterpret_cast<FourUnaligned*>(to + i * to_by) = out[i];
}

// pixels[i * kBlock + lane] = lines[lane][i] for `lanes` <= kBlock lanes; the other lanes keep what they hold.
template <class A, class T>
void interleave(A* pixels, const T* const* lines, int64_t lanes, int64_t count) {
  int64_t lane = 0;
  if constexpr (std::is_same_v<A, T> && sizeof(A) == 4) {
    for (; lane + 4 <= lanes; lane += 4) {
      int64_t i = 0;
      for (; i + 4 <= count; i += 4) {
        const char* from[4];
        for (int j = 0; j < 4; ++j) from[j] = reinterpret_cast<const char*>(lines[lane + j] + i);
        transpose_4x4(reinterpret_cast<char*>(pixels + i * kBlock + lane), kBlock * 4, from);
      }
      for (; i < count; ++i)
        for (int j = 0; j < 4; ++j) pixels[i * kBlock + lane + j] = lines[lane + j][i];
    }
  }
  for (; lane < lanes; ++lane)
    for (int64_t i = 0; i < count; ++i) pixels[i * kBlock + lane] = convert<A>(lines[lane][i]);
}

// lines[lane][i] = pixels[i * kBlock + lane]
template <class T, class A>
void deinterleave(T* const* lines, const A* pixels, int64_t lanes, int64_t count) {
  int64_t lane = 0;
  if constexpr (std::is_same_v<A, T> && sizeof(A) == 4) {
    for (; lane + 4 <= lanes; lane += 4) {
      int64_t i = 0;
      for (; i + 4 <= count; i += 4) {
        const char* from[4];
        for (int j = 0; j < 4; ++j) from[j] = reinterpret_cast<const char*>(pixels + (i + j) * kBlock + lane);
        char four[4][16];
        transpose_4x4(four[0], 16, from);
        for (int j = 0; j < 4; ++j) __builtin_memcpy(lines[lane + j] + i, four[j], 16);
      }
      for (; i < count; ++i)
        for (int j = 0; j < 4; ++j) lines[lane + j][i] = pixels[i * kBlock + lane + j];
    }
  }
  for (; lane < lanes; ++lane)
    for (int64_t i = 0; i < count; ++i) lines[lane][i] = convert<T>(pixels[i * kBlock + lane]);
}

// The planes of one block: where each starts in the tensor (elements), and how many there are.
struct Lanes {
  int64_t count, start[kBlock];
  int64_t channel[kBlock];
};

// `source`: the planes that are read, one for `multiplier` channels.
inline Lanes lanes_of(const Planes& p, const Strides& strides, int64_t block, bool source) {
  Lanes lanes;
  const int64_t per = p.blocks_per_sample(), by = source ? p.multiplier : 1;
  const int64_t first = p.layout == Layout::nchw ? block * kBlock : block % per * kBlock;
  const int64_t all = p.layout == Layout::nchw ? p.n * p.channels : p.channels;
  lanes.count = least(kBlock, all - first);
  int64_t n = p.layout == Layout::nchw ? first / p.channels : block / per;
  int64_t channel = p.layout == Layout::nchw ? first % p.channels : first;
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    lanes.channel[lane] = channel;
    lanes.start[lane] = n * strides.n + channel / by * strides.c;
    if (++channel == p.channels) channel = 0, ++n;
  }
  return lanes;
}

// One row of the tensor at `row` (elements from a plane's start) into `pixels`.
template <class A, class T>
void read_row(const Planes& p, A* pixels, const T* tensor, const Lanes& lanes, int64_t row, int64_t pitch,
              int64_t count, A* temporary) {
  if (p.layout == Layout::nchw) {
    const T* lines[kBlock];
    for (int64_t lane = 0; lane < lanes.count; ++lane) lines[lane] = tensor + lanes.start[lane] + row;
    if constexpr (sizeof(A) == 4 && sizeof(T) < 4) {
      const A* wide[kBlock];
      for (int64_t lane = 0; lane < lanes.count; ++lane) {
        copy(temporary + lane * count, lines[lane], count);
        wide[lane] = temporary + lane * count;
      }
      return interleave(pixels, wide, lanes.count, count);
    }
    return interleave(pixels, lines, lanes.count, count);
  }
  const T* from = tensor + lanes.start[0] + row;
  if (p.multiplier == 1 && lanes.count == kBlock) {
    for (int64_t i = 0; i < count; ++i) copy(pixels + i * kBlock, from + i * pitch, kBlock);
  } else if (p.multiplier == 1) {
    for (int64_t i = 0; i < count; ++i) copy(pixels + i * kBlock, from + i * pitch, lanes.count);
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t lane = 0; lane < lanes.count; ++lane)
        pixels[i * kBlock + lane] = convert<A>(tensor[lanes.start[lane] + row + i * pitch]);
  }
}

// The other way: `pixels` into one row of the tensor.
template <class T, class A>
void write_row(const Planes& p, T* tensor, const A* pixels, const Lanes& lanes, int64_t row, int64_t pitch,
               int64_t count, A* temporary) {
  if (p.layout == Layout::nchw) {
    T* lines[kBlock];
    for (int64_t lane = 0; lane < lanes.count; ++lane) lines[lane] = tensor + lanes.start[lane] + row;
    if constexpr (sizeof(A) == 4 && !std::is_same_v<T, A> && sizeof(T) < 8) {
      A* wide[kBlock];
      for (int64_t lane = 0; lane < lanes.count; ++lane) wide[lane] = temporary + lane * count;
      deinterleave(wide, pixels, lanes.count, count);
      for (int64_t lane = 0; lane < lanes.count; ++lane) copy(lines[lane], wide[lane], count);
      return;
    }
    return deinterleave(lines, pixels, lanes.count, count);
  }
  T* to = tensor + lanes.start[0] + row;
  if (lanes.count == kBlock) {
    for (int64_t i = 0; i < count; ++i) copy(to + i * pitch, pixels + i * kBlock, kBlock);
  } else {
    for (int64_t i = 0; i < count; ++i) copy(to + i * pitch, pixels + i * kBlock, lanes.count);
  }
}

// The rows that band `band` of output slice d needs. The padding around the columns must be in the buffer already
// (fill it once, before the first band); rows beyond the tensor are padded here.
template <class A, class T>
void fill_band(const Band& b, const Planes& p, A* buffer, const T* tensor, const Lanes& lanes, const Strides& strides,
               int64_t d, int64_t band, A padding, A* temporary) {
  const AxisMap &depth = b.axis[0], &height = b.axis[1];
  const int64_t top = b.first_row + band * b.height * height.mul, count = least(b.axis[2].in, b.pixels - b.lead);
  for (int64_t slot = 0; slot < b.slots; ++slot, buffer += b.rows * b.row) {
    const int64_t base = b.slot_base[d % depth.div * b.slots + slot];
    if (base == kAbsentSlot) continue;
    const int64_t slice = d / depth.div * depth.mul + base;
    if (slice < 0 || slice >= depth.in) {
      fill(buffer, b.rows * b.row, padding);
      continue;
    }
    const int64_t first = least(most(0, -top), b.rows), last = most(first, least(b.rows, height.in - top));
    fill(buffer, first * b.row, padding);
    fill(buffer + last * b.row, (b.rows - last) * b.row, padding);
    for (int64_t i = first; i < last; ++i)
      read_row(p, buffer + i * b.row + b.lead * kBlock, tensor, lanes,
               slice * strides.at[0] + (top + i) * strides.at[1], strides.at[2], count, temporary);
  }
}

// Outputs of phase `phase` on an axis.
inline int64_t phase_outputs(const AxisMap& axis, int64_t phase) {
  return axis.out > phase ? (axis.out - phase + axis.div - 1) / axis.div : 0;
}

// Rows of phase `phase` (of the height axis) in a band.
inline int64_t band_outputs(const Band& b, int64_t band, int64_t phase) {
  return most(0, least(b.height, phase_outputs(b.axis[1], phase) - band * b.height));
}

// A task's number, taken apart. In memory order: in NCHW the bands of a block follow one another, in NHWC the blocks of
// a band do.
struct Place {
  int64_t block, d, band;
};
inline Place place_of(const Band& b, const Planes& p, int64_t index) {
  const int64_t slices = b.axis[0].out, per = p.blocks_per_sample();
  if (p.layout == Layout::nchw) return {index / b.bands / slices, index / b.bands % slices, index % b.bands};
  const int64_t rest = index / per;
  return {rest / b.bands / slices * per + index % per, rest / b.bands % slices, rest % b.bands};
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
