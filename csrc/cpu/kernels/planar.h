// Tensor rows in and out of the scratch of the planar kernels (cpu/depthwise.h).
#pragma once

#include "cpu/depthwise.h"
#include "cpu/kernels/convert.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A>
void fill(A* to, int64_t count, A value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// Asks for what will be read soon: it may lie past the end of a tensor.
inline void prefetch(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(from) + at, 0, 2);
}

// One row, split into `mul` lines.
template <class A, class T>
void split_row(A* to, int64_t line, const T* from, int64_t count, int64_t mul) {
  if (mul == 1) return convert_line(to, from, count);
  if (mul == 2) {
    A* __restrict even = to, * __restrict odd = to + line;
    for (int64_t i = 0; i < count / 2; ++i) even[i] = widen(from[2 * i]), odd[i] = widen(from[2 * i + 1]);
    if (count % 2) even[count / 2] = widen(from[count - 1]);
    return;
  }
  for (int64_t start = 0; start < mul; ++start, to += line)
    for (int64_t i = start, j = 0; i < count; i += mul, ++j) to[j] = widen(from[i]);
}

// The other way: phase f of the row is line f.
template <class T, class A>
void join_row(T* to, const A* from, int64_t line, int64_t count, int64_t div) {
  if (div == 1) return convert_line(to, from, count);
  if (div == 2) {
    const A* __restrict even = from, * __restrict odd = from + line;
    for (int64_t i = 0; i < count / 2; ++i) to[2 * i] = narrow<T>(even[i]), to[2 * i + 1] = narrow<T>(odd[i]);
    if (count % 2) to[count - 1] = narrow<T>(even[count / 2]);
    return;
  }
  for (int64_t start = 0; start < div; ++start, from += line)
    for (int64_t i = start, j = 0; i < count; i += div, ++j) to[i] = narrow<T>(from[j]);
}

// Rows shorter than a vector, whole vectors where they do not pass `end`; what is beyond a row becomes zero.
template <class A, class T>
void short_rows(A* to, int64_t line, const T* from, int64_t pitch, int64_t rows, int64_t count, const T* end) {
  const mask_of<A> mask = first_lanes<A>(count);
  for (int64_t i = 0; i < rows; ++i, to += line, from += pitch) {
    if (end - from >= lanes<A>) {
      store(to, (vec<A>)((mask_of<A>)load_as<A>(from) & mask));
    } else {
      convert_line(to, from, count);
    }
  }
}

// `rows` rows of the tensor into lines.
template <class A, class T>
void copy_rows(A* to, int64_t line, const T* from, int64_t pitch, int64_t rows, int64_t count, const T* end) {
  if (count < lanes<A>) return short_rows(to, line, from, pitch, rows, count, end);
  for (int64_t i = 0; i < rows; ++i, to += line, from += pitch) convert_line(to, from, count);
}

// What pads a row other than zeros, from its own elements: element i is in line i % mul, at lead + i / mul.
template <class A>
void pad_line(const Planar& b, A* row) {
  const AxisMap& width = b.axis[2];
  const int64_t before = b.lead * width.mul, all = b.line * width.mul;
  const auto at = [&](int64_t element) -> A& { return row[element % width.mul * b.line + element / width.mul]; };
  const auto pad = [&](int64_t i) { at(i) = at(before + padding_source(width.pad_mode, width.in, i - before)); };
  for (int64_t i = most(0, before - width.pads_before()); i < before; ++i) pad(i);
  for (int64_t i = before + width.in; i < all; ++i) pad(i);
}

// The source rows of band `band` of output slice d, from a plane of a tensor that ends at `end`. The padding left and
// right of the columns must be in the scratch already, if it is zeros: zero it once, before the first band.
template <class A, class T>
void fill_band(const Planar& b, A* scratch, const T* plane, const Strides& strides, int64_t d, int64_t band,
               const T* end) {
  const AxisMap &height = b.axis[1], &width = b.axis[2];
  const PhaseAxis& depth = b.phase[0][d % b.axis[0].div];
  const int64_t top = b.top + band * b.height * height.mul;
  const int64_t first = least(most(0, -top), b.rows), last = most(first, least(b.rows, height.in - top));
  const int64_t count = least(width.in, (b.line - b.lead) * width.mul);
  for (int64_t slot = 0; slot < depth.taps; ++slot, scratch += b.rows * b.row) {
    const int64_t slice = padding_source(b.axis[0].pad_mode, b.axis[0].in,
                                         depth.first + d / b.axis[0].div * depth.mul + slot * depth.apart);
    const bool inside = slice >= 0 && slice < b.axis[0].in;
    const int64_t stop = inside ? last : first;
    if (height.pad_mode != PadMode::zeros) {
      for (int64_t i = 0; i < b.rows; ++i) {
        A* row = scratch + i * b.row;
        const int64_t source = padding_source(height.pad_mode, height.in, top + i);
        split_row(row + b.lead, b.line, plane + slice * strides.at[0] + source * strides.at[1], count, width.mul);
        pad_line(b, row);
      }
      continue;
    }
    if (b.bands * b.axis[0].out > 1) {  // else they are always the same, and zero from the start
      fill(scratch, first * b.row, A(0));
      fill(scratch + stop * b.row, (b.rows - stop) * b.row, A(0));
    }
    const T* from = plane + slice * strides.at[0] + (top + first) * strides.at[1];
    A* to = scratch + first * b.row + b.lead;
    if (width.mul == 1 && count < lanes<A>) {
      short_rows(to, b.row, from, strides.at[1], stop - first, count, end);
      continue;
    }
    for (int64_t i = first; i < stop; ++i, to += b.row, from += strides.at[1])
      split_row(to, b.line, from, count, width.mul);
  }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
