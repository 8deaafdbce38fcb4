// Average pooling of planes (NCHW) by large or uneven windows, without padding: the rows that a row of windows covers
// are added up, vectors along the columns, then the columns of each window; one window over the whole plane is one run.
// Two short sums for a long one are also the more accurate. Backward, a row of gy is spread over the columns once, and
// every row of gx adds up the spread rows that it belongs to. A task is a plane.
#pragma once

#include "cpu/kernels/pool_vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A, class T>
inline __attribute__((always_inline)) void add_line(A* __restrict sum, const T* from, int64_t count) {
  int64_t i = 0;
  for (; i + lanes<A> <= count; i += lanes<A>) store(sum + i, load(sum + i) + load_as<A>(from + i));
  for (; i < count; ++i) sum[i] += widen(from[i]);
}

// Of a run, in four vectors of partial sums.
template <class A, class T>
inline __attribute__((always_inline)) A sum_of(const T* from, int64_t count) {
  constexpr int64_t by = lanes<A>;
  vec<A> part[4] = {};
  int64_t i = 0;
  for (; i + 4 * by <= count; i += 4 * by)
    for (int v = 0; v < 4; ++v) part[v] += load_as<A>(from + i + v * by);
  for (; i + by <= count; i += by) part[0] += load_as<A>(from + i);
  const vec<A> all = (part[0] + part[1]) + (part[2] + part[3]);
  A sum = 0;
  for (int lane = 0; lane < by; ++lane) sum += all[lane];
  A rest = 0;
  for (; i < count; ++i) rest += widen(from[i]);
  return sum + rest;
}

template <class T>
void average_plane(const WindowPooling& q, int64_t plane, accumulator_t<T>* line) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const AxisMap(&axis)[3] = p.axis;
  const int64_t row = axis[2].in, slice = axis[1].in * row;
  const T* src = static_cast<const T*>(p.src) + plane * axis[0].in * slice;
  T* dst = static_cast<T*>(p.dst) + plane * extent(axis);
  for (int64_t d = 0; d < axis[0].out; ++d) {
    const Span& depth = q.axis[0].spans[d];
    for (int64_t h = 0; h < axis[1].out; ++h) {
      const Span& height = q.axis[1].spans[h];
      const int64_t covered = q.axis[0].covered[d] * int64_t(q.axis[1].covered[h]);
      const bool whole = axis[2].out == 1 && q.axis[2].spans[0].count == row;  // rows side by side are one run
      A sum = 0;
      if (!whole) std::fill_n(line, row, A(0));
      for (int64_t i = 0; i < depth.count; ++i) {
        const T* from = src + (depth.source + i) * slice + height.source * row;
        if (whole) sum += sum_of<A>(from, height.count * row);
        for (int64_t j = 0; !whole && j < height.count; ++j) add_line(line, from + j * row, row);
      }
      for (int64_t w = 0; w < axis[2].out; ++w) {
        const Span& width = q.axis[2].spans[w];
        if (!whole) sum = sum_of<A>(line + width.source, width.count);
        *dst++ = narrow<T>(sum / share_of<A>(p, covered * q.axis[2].covered[w]));
      }
    }
  }
}

// `lines`: a spread row for each row of windows, and one more.
template <class T>
void spread_plane(const WindowPooling& q, int64_t plane, accumulator_t<T>* lines) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const AxisMap(&axis)[3] = p.axis;  // of gx; its `in` is gy's extent
  const int64_t row = axis[2].out, windows = axis[2].in, rows = axis[0].in * axis[1].in;
  const T* gy = static_cast<const T*>(p.src) + plane * rows * windows;
  T* gx = static_cast<T*>(p.dst) + plane * extent(axis);
  A* const total = lines + rows * row;
  for (int64_t o = 0; o < rows; ++o) {
    const int64_t covered = q.axis[0].covered[o / axis[1].in] * int64_t(q.axis[1].covered[o % axis[1].in]);
    for (int64_t w = 0; w < windows; ++w)
      total[w] = widen(gy[o * windows + w]) / share_of<A>(p, covered * q.axis[2].covered[w]);
    A* line = lines + o * row;
    for (int64_t x = 0; x < row; ++x) {
      const Span& width = q.axis[2].spans[x];
      A sum = 0;
      for (int64_t i = 0; i < width.count; ++i) sum += total[width.source + i * q.axis[2].source_step];
      line[x] = sum;
    }
  }
  for (int64_t d = 0; d < axis[0].out; ++d) {
    const Span& depth = q.axis[0].spans[d];
    for (int64_t h = 0; h < axis[1].out; ++h, gx += row) {
      const Span& height = q.axis[1].spans[h];
      const auto at = [&](int64_t i, int64_t j) {
        return lines +
               ((depth.source + i * q.axis[0].source_step) * axis[1].in + height.source + j * q.axis[1].source_step) *
                   row;
      };
      if (depth.count == 1 && height.count == 1) {
        convert_line(gx, at(0, 0), row);
        continue;
      }
      std::fill_n(total, row, A(0));
      for (int64_t i = 0; i < depth.count; ++i)
        for (int64_t j = 0; j < height.count; ++j) add_line(total, at(i, j), row);
      convert_line(gx, total, row);
    }
  }
}

void average_pool_planes(const void* context, int64_t begin, int64_t end) {
  const auto& q = *static_cast<const WindowPooling*>(context);
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t row = std::max(axis[2].in, axis[2].out), lines = q.problem.backward ? axis[0].in * axis[1].in + 1 : 1;
  visit_dtype(q.problem.dtype, [&](auto type) {
    using T = decltype(type);
    auto* room = static_cast<accumulator_t<T>*>(scratch(size_t(lines * row + 64) * sizeof(accumulator_t<T>)));
    for (int64_t plane = begin; plane < end; ++plane)
      q.problem.backward ? spread_plane<T>(q, plane, room) : average_plane<T>(q, plane, room);
  });
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
