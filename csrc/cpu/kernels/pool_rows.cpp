// Pooling with vectors along the rows, for pixels shorter than a vector: NCHW, and NHWC of few channels
// (cpu/windows.h). A task is a band of output rows of a group of planes.
#include <algorithm>

#include "cpu/kernels/pool_planes.h"
#include "cpu/kernels/pool_vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kPrefetch = 4096;  // bytes ahead of the row that is read: its neighbours are pooled before them

template <class A, class T>
inline __attribute__((always_inline)) A widened(T value) {
  if constexpr (std::is_integral_v<T>) {
    return A(value);
  } else {
    return widen(value);
  }
}

template <class A>
void fill(A* to, int64_t count, A value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// A row of a tensor into `mul` lines: pixel i*mul + f becomes pixel i of line f.
template <class A, class T>
void split_row(A* to, int64_t line, const T* from, int64_t count, int64_t mul, int64_t pixel) {
  if (mul == 1) {
    if constexpr (std::is_integral_v<T>) {
      for (int64_t i = 0; i < count * pixel; ++i) to[i] = A(from[i]);
    } else {
      convert_line(to, from, count * pixel);
    }
  } else if (mul == 2 && pixel == 1) {
    A* __restrict even = to, * __restrict odd = to + line;
    for (int64_t i = 0; i < count / 2; ++i) even[i] = widened<A>(from[2 * i]), odd[i] = widened<A>(from[2 * i + 1]);
    if (count % 2) even[count / 2] = widened<A>(from[count - 1]);
  } else {
    for (int64_t f = 0; f < mul; ++f)
      for (int64_t i = f, j = f * line; i < count; i += mul)
        for (int64_t c = 0; c < pixel; ++c, ++j) to[j] = widened<A>(from[i * pixel + c]);
  }
}

// The other way: pixel i of line f becomes pixel i*div + f of the row.
template <class T, class A>
void join_row(T* to, const A* from, int64_t line, int64_t count, int64_t div, int64_t pixel) {
  if (div == 1) {
    if constexpr (std::is_integral_v<T>) {
      for (int64_t i = 0; i < count * pixel; ++i) to[i] = T(from[i]);
    } else {
      convert_line(to, from, count * pixel);
    }
  } else if (div == 2 && pixel == 1) {
    const A* __restrict even = from, * __restrict odd = from + line;
    for (int64_t i = 0; i < count / 2; ++i) to[2 * i] = narrow<T>(even[i]), to[2 * i + 1] = narrow<T>(odd[i]);
    if (count % 2) to[count - 1] = narrow<T>(even[count / 2]);
  } else {
    for (int64_t f = 0; f < div; ++f)
      for (int64_t i = f, j = f * line; i < count; i += div)
        for (int64_t c = 0; c < pixel; ++c, ++j) to[i * pixel + c] = narrow<T>(from[j]);
  }
}

// The scratch of a run of tasks.
template <class A>
struct Lines {
  A *source, *output, *shares;
  Integer<A>*winners, *first;
  TapRow* rows;
  LineTap* taps;
};

// Output rows [begin, end) of slice d of a group of planes. Of each source slice the rows from `top` are in scratch.
struct Band {
  int64_t first_plane, planes, d, begin, end, top;
};

// One past the last source row that output row h reads; at most `none` if it reads none.
int64_t source_end(const WindowPooling& q, int64_t h, int64_t none) {
  const Span& span = q.axis[1].spans[h];
  return span.count ? most(span.source, span.source + (span.count - 1) * q.axis[1].source_step) + 1 : none;
}

Band band_at(const WindowPooling& q, int64_t index) {
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t band = index % q.bands, first_plane = index / q.bands / axis[0].out * q.group;
  Band b{first_plane, least(q.group, q.planes - first_plane), index / q.bands % axis[0].out, band * q.height, 0,
         axis[1].in};
  b.end = least(axis[1].out, b.begin + q.height);
  for (int64_t h = b.begin; h < b.end; ++h) {
    const Span& span = q.axis[1].spans[h];
    if (span.count) b.top = least(b.top, least(span.source, span.source + (span.count - 1) * q.axis[1].source_step));
  }
  return b;
}

// Source rows [begin, end) into `lines`.
template <class A, class T>
void read_rows(const WindowPooling& q, const Band& b, int64_t begin, int64_t end, const T* tensor, A* lines) {
  const AxisMap(&axis)[3] = q.problem.axis;
  const Span& depth = q.axis[0].spans[b.d];
  const int64_t pitch = axis[2].in * q.pixel;
  for (int64_t slot = 0; slot < depth.count; ++slot) {
    const int64_t slice = depth.source + slot * q.axis[0].source_step;
    for (int64_t g = 0; g < b.planes; ++g) {
      const T* from = tensor + (((b.first_plane + g) * axis[0].in + slice) * axis[1].in + begin) * pitch;
      A* to = lines + (slot * q.rows + begin - b.top) * q.row + (g * q.pitch + q.lead) * q.pixel;
      for (int64_t row = begin; row < end; ++row, from += pitch, to += q.row) {
        const char* ahead = reinterpret_cast<const char*>(from) + kPrefetch;
        for (int64_t i = 0; i < pitch * int64_t(sizeof(T)); i += 64) __builtin_prefetch(ahead + i);
        split_row(to, q.line, from, axis[2].in, axis[2].mul, q.pixel);
      }
    }
  }
}

// The lines of output row h to the tensor.
template <class T, class A>
void write_row(const WindowPooling& q, const Band& b, int64_t h, T* tensor, const A* lines) {
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t pitch = axis[2].out * q.pixel;
  for (int64_t g = 0; g < b.planes; ++g)
    join_row(tensor + (((b.first_plane + g) * axis[0].out + b.d) * axis[1].out + h) * pitch,
             lines + g * q.pitch * q.pixel, q.line, axis[2].out, axis[2].div, q.pixel);
}

void write_indices(const WindowPooling& q, const Band& b, int64_t h, const auto* winners) {
  const AxisMap(&axis)[3] = q.problem.axis;
  for (int64_t g = 0; g < b.planes; ++g) {
    int64_t* to =
        q.problem.indices + (((b.first_plane + g) * axis[0].out + b.d) * axis[1].out + h) * axis[2].out * q.pixel;
    const auto* from = winners + g * q.pitch * q.pixel;
    for (int64_t w = 0; w < axis[2].out; ++w)
      for (int64_t c = 0; c < q.pixel; ++c) *to++ = plane_index(q, b.d, h, w, *from++);
  }
}

// All taps of the outputs of one phase of a row; `at` counts from the source lines.
struct Taps {
  const LineTap* taps;
  int64_t count;
};

Taps taps_of(const WindowPooling& q, const LinePhase& phase, const TapRow* rows, int64_t row_count, LineTap* room) {
  int64_t count = 0;
  for (int64_t i = 0; i < row_count; ++i)
    for (int64_t j = phase.first; j < phase.first + phase.count; ++j)
      room[count++] = {rows[i].at + q.line_taps[j].at, rows[i].tap + q.line_taps[j].tap};
  return {room, count};
}

// Calls visit(count of vectors as a constant, first element) for the vectors of a line; may overrun it by four vectors.
template <class A, class Visit>
void for_vectors(int64_t length, Visit visit) {
  int64_t e = 0;
  for (; length - e > lanes<A>; e += 4 * lanes<A>) visit(Count<4>(), e);
  if (e < length) visit(Count<1>(), e);
}

// `row`: the number of the first tap of the window's first row inside; m.first: the first column's, or -1.
template <class A, int V, bool Track>
inline __attribute__((always_inline)) void maxima(const Taps& taps, int64_t row, const Lines<A>& m, int64_t e) {
  vec<A> best[V];
  vec<Integer<A>> winner[V];
  for (int v = 0; v < V; ++v) {
    best[v] = broadcast(-A(__builtin_inf()));
    const vec<Integer<A>> first = load(m.first + e + v * lanes<A>), none = vec<Integer<A>>{} - 1;
    winner[v] = taps.count == 0 ? none : first < 0 ? none : first + Integer<A>(row);
  }
  for (int64_t i = 0; i < taps.count; ++i) {
    const int64_t at = taps.taps[i].at + e;
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(taps.taps[i].tap);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) take_larger<Track, A>(best[v], winner[v], load(m.source + at + v * lanes<A>), tap);
  }
  for (int v = 0; v < V; ++v) {
    store(m.output + e + v * lanes<A>, best[v]);
    if (Track) store(m.winners + e + v * lanes<A>, winner[v]);
  }
}

template <class A, int V>
inline __attribute__((always_inline)) void sums(const Taps& taps, const Lines<A>& m, A* output, int64_t e) {
  vec<A> sum[V] = {};
  for (int64_t i = 0; i < taps.count; ++i) {
    const int64_t at = taps.taps[i].at + e;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] += load(m.source + at + v * lanes<A>);
  }
  for (int v = 0; v < V; ++v) store(output + e + v * lanes<A>, sum[v]);
}

// Elements of a line's outputs, with the padding between planes.
int64_t line_length(const WindowPooling& q, const Band& b) {
  const AxisMap& axis = q.problem.axis[2];
  return ((b.planes - 1) * q.pitch + (axis.out + axis.div - 1) / axis.div) * q.pixel;
}

// For each row of a band, calls read(begin, end) for the source rows that no row before has read, and visit(h, how many
// rows of taps).
template <class A, class Read, class Visit>
void for_rows(const WindowPooling& q, const Band& b, const Lines<A>& m, Read read, Visit visit) {
  const int64_t slot = q.rows * q.row;
  for (int64_t h = b.begin, next = b.top; h < b.end; ++h) {
    const int64_t end = source_end(q, h, next);
    if (next < end) read(next, end), next = end;
    visit(h, tap_rows(q, b.d, h, q.row, m.rows, [&](int64_t k, int64_t) { return k * slot - b.top * q.row; }));
  }
}

template <class T>
void max_band(const WindowPooling& q, const Band& b, const Lines<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const auto read = [&](int64_t begin, int64_t end) {
    read_rows(q, b, begin, end, static_cast<const T*>(p.src), m.source);
  };
  for_rows(q, b, m, read, [&](int64_t h, int64_t rows) {
    const Taps taps = taps_of(q, q.phases[0], m.rows, rows, m.taps);
    const int64_t row = rows ? m.rows[0].tap : 0;
    for_vectors<A>(line_length(q, b), [&](auto n, int64_t e) {
      p.offsets || p.indices ? maxima<A, n.value, true>(taps, row, m, e) : maxima<A, n.value, false>(taps, row, m, e);
    });
    write_row(q, b, h, static_cast<T*>(p.dst), m.output);
    if (p.offsets && p.offset_bytes == 1) write_row(q, b, h, static_cast<uint8_t*>(p.offsets), m.winners);
    if (p.offsets && p.offset_bytes == 4) write_row(q, b, h, static_cast<int32_t*>(p.offsets), m.winners);
    if (p.indices) write_indices(q, b, h, m.winners);
  });
}

// All phases of all rows of dgrad: calls visit(taps, output line).
template <class T, class Read, class Visit>
void backward_rows(const WindowPooling& q, const Band& b, const Lines<accumulator_t<T>>& m, Read read, Visit visit) {
  for_rows(q, b, m, read, [&](int64_t h, int64_t rows) {
    for (int64_t f = 0; f < q.problem.axis[2].div; ++f)
      visit(taps_of(q, q.phases[f], m.rows, rows, m.taps), m.output + f * q.line);
    write_row(q, b, h, static_cast<T*>(q.problem.dst), m.output);
  });
}

// A line over the windows of a row that cover `rows` elements on the other axes.
template <class A>
void divide_line(const WindowPooling& q, A* line, const A* shares, int64_t rows) {
  const A each = q.problem.divisor_override ? A(1) : A(rows);
  for (int64_t e = 0; e < q.group * q.pitch * q.pixel; ++e) line[e] /= shares[e] * each;
}

template <class T>
void average_band(const WindowPooling& q, const Band& b, const Lines<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const int32_t *slices = q.axis[0].covered, *rows = q.axis[1].covered;
  const auto read = [&](int64_t begin, int64_t end) {
    read_rows(q, b, begin, end, static_cast<const T*>(p.src), m.source);
    const Span& depth = q.axis[0].spans[b.d];
    for (int64_t slot = 0; p.backward && slot < depth.count; ++slot)
      for (int64_t row = begin; row < end; ++row)
        divide_line(q, m.source + (slot * q.rows + row - b.top) * q.row, m.shares,
                    int64_t(slices[depth.source + slot * q.axis[0].source_step]) * rows[row]);
  };
  const auto sum = [&](const Taps& taps, A* output) {
    for_vectors<A>(line_length(q, b), [&](auto n, int64_t e) { sums<A, n.value>(taps, m, output, e); });
  };
  if (p.backward) return backward_rows<T>(q, b, m, read, sum);
  for_rows(q, b, m, read, [&](int64_t h, int64_t count) {
    sum(taps_of(q, q.phases[0], m.rows, count, m.taps), m.output);
    divide_line(q, m.output, m.shares, int64_t(slices[b.d]) * rows[h]);
    write_row(q, b, h, static_cast<T*>(p.dst), m.output);
  });
}

// What does not change from row to row: padding, the shares of the windows along a line, their first taps.
template <class A>
void set_up(const WindowPooling& q, bool maximum, int64_t elements, const Lines<A>& m) {
  const Pooling& p = q.problem;
  const AxisMap& window = p.forward[2];
  fill(m.source, elements, maximum ? -A(__builtin_inf()) : A(0));
  fill(m.shares, q.line, A(1));
  fill(m.first, q.line, Integer<A>(-1));
  const int64_t lead = p.backward ? q.lead : 0;
  for (int64_t g = 0; g < q.group; ++g) {
    for (int64_t w = 0; w < window.out; ++w) {
      const int64_t at = (g * q.pitch + lead + w) * q.pixel;
      if (!maximum) fill(m.shares + at, q.pixel, share_of<A>(p, q.axis[2].covered[w]));
      if (maximum) fill(m.first + at, q.pixel, Integer<A>(q.axis[2].spans[w].tap));
    }
  }
}

// Sets up the scratch for a run of tasks and calls visit(T{}, task, band, scratch) for each.
template <class Visit>
void for_bands(const void* context, int64_t begin, int64_t end, bool maximum, Visit visit) {
  const auto& q = *static_cast<const WindowPooling*>(context);
  visit_dtype(q.problem.dtype, [&](auto type) {
    using A = accumulator_t<decltype(type)>;
    const int64_t elements = q.slots * q.rows * q.row, output = q.problem.axis[2].div * q.line;
    const size_t values = size_t(elements + output + 3 * q.line + 64);
    Lines<A> m;
    const int64_t rows = q.tap_rows, taps = rows * q.problem.forward[2].taps;
    m.source =
        static_cast<A*>(scratch(values * sizeof(A) + size_t(rows) * sizeof(TapRow) + size_t(taps) * sizeof(LineTap)));
    m.output = m.source + elements, m.shares = m.output + output;
    m.first = reinterpret_cast<Integer<A>*>(m.shares + q.line), m.winners = m.first + q.line;
    m.rows = reinterpret_cast<TapRow*>(m.source + values);
    m.taps = reinterpret_cast<LineTap*>(m.rows + rows);
    set_up(q, maximum, elements, m);
    for (int64_t index = begin; index < end; ++index) visit(type, q, band_at(q, index), m);
  });
}

}  // namespace

void max_pool_rows(const void* context, int64_t begin, int64_t end) {
  if (static_cast<const WindowPooling*>(context)->one_run) return max_pool_runs(context, begin, end);
  for_bands(context, begin, end, true,
            [](auto type, const WindowPooling& q, const Band& b, const auto& m) { max_band<decltype(type)>(q, b, m); });
}

void average_pool_rows(const void* context, int64_t begin, int64_t end) {
  if (static_cast<const WindowPooling*>(context)->whole_planes) return average_pool_planes(context, begin, end);
  for_bands(context, begin, end, false, [](auto type, const WindowPooling& q, const Band& b, const auto& m) {
    average_band<decltype(type)>(q, b, m);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
