// Copies between a band's buffer (cpu/band.h) and the tensor: where dtypes are converted and output channels, side by
// side in the buffer, are taken apart for NCHW.
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

template <int Channels, class To, class From>
inline void copy_fixed(To* __restrict to, int64_t to_pixel, const From* __restrict from, int64_t from_pixel,
                       int64_t pixels) {
  constexpr int64_t ahead = 16;  // pixels are far apart in memory; may ask for what is past the end of the tensor
  for (int64_t i = 0; i < pixels; ++i, to += to_pixel, from += from_pixel) {
    __builtin_prefetch(from + ahead * from_pixel);
    for (int c = 0; c < Channels; ++c) to[c] = convert<To>(from[c]);
  }
}

// Some channels of each pixel: unrolled for those that layers have.
template <class To, class From>
void copy_pixels(To* to, int64_t to_pixel, const From* from, int64_t from_pixel, int64_t pixels, int64_t channels) {
  if (channels == 4) return copy_fixed<4>(to, to_pixel, from, from_pixel, pixels);
  if (channels == 8) return copy_fixed<8>(to, to_pixel, from, from_pixel, pixels);
  if (channels == 16) return copy_fixed<16>(to, to_pixel, from, from_pixel, pixels);
  for (int64_t i = 0; i < pixels; ++i) copy(to + i * to_pixel, from + i * from_pixel, channels);
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

// The channels of one block: where each starts in the tensor (elements), and how many there are.
struct Lanes {
  int64_t count, start[kBlock];
  int64_t channel[kBlock];
};

// `pixels` into one row of the tensor.
template <class T, class A>
void write_row(Layout layout, T* tensor, const A* pixels, const Lanes& lanes, int64_t row, int64_t pitch, int64_t count,
               A* temporary) {
  if (layout == Layout::nchw) {
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
  copy_pixels(tensor + lanes.start[0] + row, pitch, pixels, kBlock, count, lanes.count);
}

// Adds to `pixels` one row of a tensor.
template <class T, class A>
void add_row(Layout layout, A* pixels, const T* tensor, const Lanes& lanes, int64_t row, int64_t pitch, int64_t count) {
  if (layout == Layout::nchw) {
    for (int64_t lane = 0; lane < lanes.count; ++lane) {
      const T* line = tensor + lanes.start[lane] + row;
      for (int64_t i = 0; i < count; ++i) pixels[i * kBlock + lane] += widen(line[i]);
    }
    return;
  }
  const T* from = tensor + lanes.start[0] + row;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t lane = 0; lane < lanes.count; ++lane) pixels[i * kBlock + lane] += widen(from[i * pitch + lane]);
}

// Outputs of phase `phase` on an axis.
inline int64_t phase_outputs(const AxisMap& axis, int64_t phase) {
  return axis.out > phase ? (axis.out - phase + axis.div - 1) / axis.div : 0;
}

// Rows of phase `phase` (of the height axis) in a band.
inline int64_t band_outputs(const Band& b, int64_t band, int64_t phase) {
  return most(0, least(b.height, phase_outputs(b.axis[1], phase) - band * b.height));
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
