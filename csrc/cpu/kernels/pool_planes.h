// Pooling of planes (NCHW) by one window over all of it, a run of elements, and average pooling by large or uneven
// windows, without padding: the rows that a row of windows covers are added up, vectors along the columns, then the
// columns of each window. Two short sums for a long one are also the more accurate. Backward, a row of gy is spread
// over the columns once, and every row of gx adds up the spread rows that it belongs to. A task is a plane.
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

// Calls visit(the lanes of `value` that are 1, 2, 4... apart) in turn; `value` may change.
template <class A, class Visit>
inline __attribute__((always_inline)) void fold_lanes(Visit visit) {
#pragma GCC unroll 4
  for (int step = 1; step < lanes<A>; step *= 2) {
    mask_of<A> other;
#pragma GCC unroll 16
    for (int l = 0; l < lanes<A>; ++l) other[l] = l ^ step;
    visit(other);
  }
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
  vec<A> all = (part[0] + part[1]) + (part[2] + part[3]);
  fold_lanes<A>([&](mask_of<A> other) __attribute__((always_inline)) { all += __builtin_shuffle(all, other); });
  A rest = 0;
  for (; i < count; ++i) rest += widen(from[i]);
  return all[0] + rest;
}

// Maxima, and where each was: by torch's rule the first maximum wins, the last NaN does.
template <class A>
struct Maxima {
  vec<A> best;
  vec<Integer<A>> winner;
};

template <bool Track, class A>
inline __attribute__((always_inline)) void join(Maxima<A>& a, const vec<A>& best, const vec<Integer<A>>& winner) {
  const auto nan = best != best, our_nan = a.best != a.best, later = winner > a.winner;
  const auto wins = our_nan ? nan & later : nan | (best > a.best) | ((best == a.best) & ~later);
  a.best = wins ? best : a.best;
  if constexpr (Track) a.winner = wins ? winner : a.winner;
}

// Of a run of at least a vector; its last vector overlaps the one before it.
template <bool Track, class A, class T>
inline __attribute__((always_inline)) Maxima<A> maxima_of(const T* from, int64_t count) {
  constexpr int64_t by = lanes<A>;
  vec<Integer<A>> lane;
#pragma GCC unroll 16
  for (int l = 0; l < by; ++l) lane[l] = l;
  Maxima<A> m[2];
  for (int v = 0; v < 2; ++v) {
    const int64_t at = least(v * by, count - by);
    m[v] = {load_as<A>(from + at), lane + Integer<A>(at)};
  }
  const auto take = [&](Maxima<A>& m, int64_t at) __attribute__((always_inline)) {
    take_larger<Track, A>(m.best, m.winner, load_as<A>(from + at), lane + Integer<A>(at));
  };
  int64_t i = 2 * by;
  for (; i + 2 * by <= count; i += 2 * by) take(m[0], i), take(m[1], i + by);
  if (i + by <= count) take(m[0], i);
  if (count > 2 * by) take(m[1], count - by);
  join<Track, A>(m[0], m[1].best, m[1].winner);
  fold_lanes<A>([&](mask_of<A> other) __attribute__((always_inline)) {
    join<Track, A>(m[0], __builtin_shuffle(m[0].best, other), __builtin_shuffle(m[0].winner, other));
  });
  return m[0];
}

template <bool Track, class T>
void max_run(const WindowPooling& q, int64_t plane, int64_t count) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const T* from = static_cast<const T*>(p.src) + plane * count;
  A best = widen(from[0]);
  int64_t winner = 0;
  if (count >= lanes<A>) {
    const Maxima<A> m = maxima_of<Track, A>(from, count);
    best = m.best[0], winner = int64_t(m.winner[0]);
  } else {
    for (int64_t i = 1; i < count; ++i)
      if (const A value = widen(from[i]); value > best || value != value) best = value, winner = i;
  }
  static_cast<T*>(p.dst)[plane] = narrow<T>(best);
  if (!Track) return;
  if (p.offsets && p.offset_bytes == 1) static_cast<uint8_t*>(p.offsets)[plane] = uint8_t(winner);
  if (p.offsets && p.offset_bytes == 4) static_cast<int32_t*>(p.offsets)[plane] = int32_t(winner);
  if (p.indices) p.indices[plane] = winner;
}

void max_pool_runs(const void* context, int64_t begin, int64_t end) {
  const auto& q = *static_cast<const WindowPooling*>(context);
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t count = axis[0].in * axis[1].in * axis[2].in;
  const bool track = q.problem.offsets || q.problem.indices;
  visit_dtype(q.problem.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t plane = begin; plane < end; ++plane)
      track ? max_run<true, T>(q, plane, count) : max_run<false, T>(q, plane, count);
  });
}

template <class T>
inline __attribute__((always_inline)) void fill_line(T* to, T value, int64_t count) {
  constexpr int64_t by = kVectorBytes / int64_t(sizeof(T));
  T values[by];
  for (int64_t i = 0; i < by; ++i) values[i] = value;
  if (count < by) {
    for (int64_t i = 0; i < count; ++i) to[i] = value;
    return;
  }
  const auto all = *reinterpret_cast<const BytesInMemory*>(values);
  for (int64_t i = 0; i < count; i += by) *reinterpret_cast<BytesInMemory*>(to + least(i, count - by)) = all;
}

// The average of a run, and back: gx is gy's share all over the plane.
template <class T>
void average_runs(const WindowPooling& q, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const int64_t count = p.forward[0].in * p.forward[1].in * p.forward[2].in;
  const A share = share_of<A>(p, count);
  const T* src = static_cast<const T*>(p.src);
  T* dst = static_cast<T*>(p.dst);
  for (int64_t plane = begin; plane < end; ++plane) {
    if (!p.backward) {
      dst[plane] = narrow<T>(sum_of<A>(src + plane * count, count) / share);
      continue;
    }
    const T each = narrow<T>(widen(src[plane]) / share);
    fill_line(dst + plane * count, each, count);
  }
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
      std::fill_n(line, row, A(0));
      for (int64_t i = 0; i < depth.count; ++i)
        for (int64_t j = 0; j < height.count; ++j)
          add_line(line, src + (depth.source + i) * slice + (height.source + j) * row, row);
      for (int64_t w = 0; w < axis[2].out; ++w) {
        const Span& width = q.axis[2].spans[w];
        const A sum = sum_of<A>(line + width.source, width.count);
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
    if (q.one_run) return average_runs<T>(q, begin, end);
    auto* room = static_cast<accumulator_t<T>*>(scratch(size_t(lines * row + 64) * sizeof(accumulator_t<T>)));
    for (int64_t plane = begin; plane < end; ++plane)
      q.problem.backward ? spread_plane<T>(q, plane, room) : average_plane<T>(q, plane, room);
  });
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
