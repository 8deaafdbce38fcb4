// Pooling where the tensor lies, for pixels of at least a vector (cpu/windows.h): a few vectors of an output pixel stay
// in registers while its taps are walked. A task is a row of outputs; the rows of taps that it shares with the next one
// are still in cache then.
#include "cpu/kernels/interleaved.h"
#include "cpu/kernels/pool_vectors.h"
#include "cpu/kernels/stream.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One row of outputs.
struct OutputRow {
  int64_t plane, d, h, count;  // of `taps`
  const TapRow* taps;
  int64_t source, output;  // elements from the tensors' starts
  bool repeats;            // the row before it reads the same sources, and is of the same run of tasks
};

// Calls visit(element, tap, tap row) for the taps of an output; elements are counted from the row's source.
template <class Visit>
inline __attribute__((always_inline)) void for_taps(const WindowPooling& q, const OutputRow& row, const Span& span,
                                                    Visit visit) {
  const int64_t step = q.axis[2].source_step * q.pixel, tap_step = q.axis[2].tap_step;
  for (int64_t i = 0; i < row.count; ++i) {
    int64_t at = row.taps[i].at + span.source * q.pixel, tap = row.taps[i].tap + span.tap;
    for (int64_t j = 0; j < span.count; ++j, at += step, tap += tap_step) visit(at, tap, row.taps[i]);
  }
}

bool same_sources(const Span& a, const Span& b) { return a.source == b.source && a.count == b.count; }

constexpr int64_t kListedTaps = 32;

// The taps of an output, if they are few: their numbers, and their elements from that of the output's first column.
// Most neighbours share them.
struct TapList {
  int64_t count = 0;
  int64_t at[kListedTaps], tap[kListedTaps];

  // Empty if they are too many.
  void make(const WindowPooling& q, const OutputRow& row, const Span& span) {
    if (span.tap == first_ && span.count == columns_) return;
    first_ = span.tap, columns_ = span.count, count = 0;
    if (row.count * span.count > kListedTaps) return;
    const Span origin{0, span.tap, span.count, true};
    for_taps(q, row, origin,
             [&](int64_t element, int64_t number, const TapRow&) { at[count] = element, tap[count++] = number; });
  }

 private:
  int32_t first_ = -1, columns_ = -1;
};

// Calls visit(count of vectors as a constant, first element) for the vectors of a pixel; the last one overlaps the one
// before it.
template <class A, class Visit>
inline __attribute__((always_inline)) void for_vectors(int64_t pixel, Visit visit) {
  int64_t c = 0;
  for (; pixel - c >= 4 * lanes<A>; c += 4 * lanes<A>) visit(Count<4>(), c);
  for (; c < pixel; c += lanes<A>) visit(Count<1>(), least(c, pixel - lanes<A>));
}

template <class A>
void store_indices(const WindowPooling& q, const OutputRow& row, int64_t w, int64_t* to, vec<Integer<A>> winner) {
  for (int i = 0; i < lanes<A>; ++i) to[i] = plane_index(q, row.d, row.h, w, winner[i]);
}

template <class T, int V, bool Track>
inline __attribute__((always_inline)) void max_pixel(const WindowPooling& q, const OutputRow& row, const TapList& taps,
                                                     int64_t w, int64_t c) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const Span& span = q.axis[2].spans[w];
  const T* source = static_cast<const T*>(p.src) + row.source + c;
  const bool none = !row.count || !span.count;
  const int64_t column = span.source * q.pixel, first = none ? 0 : row.taps[0].at + column;
  vec<A> best[V];
  vec<Integer<A>> winner[V];
  for (int v = 0; v < V; ++v) {  // the first tap wins even if it is -inf
    best[v] = none ? broadcast(-A(__builtin_inf())) : load_as<A>(source + first + v * lanes<A>);
    winner[v] = vec<Integer<A>>{} + Integer<A>(none ? -1 : row.taps[0].tap + span.tap);
  }
  const auto take = [&](int64_t at, int64_t number) __attribute__((always_inline)) {
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(number);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) take_larger<Track, A>(best[v], winner[v], load_as<A>(source + at + v * lanes<A>), tap);
  };
  if (taps.count) {
    source += column;
    for (int64_t i = 1; i < taps.count; ++i) take(taps.at[i], taps.tap[i]);
  } else {
    for_taps(q, row, span, [&](int64_t at, int64_t number, const TapRow&) { take(at, number); });
  }
  const int64_t to = row.output + w * q.pixel + c;
  for (int v = 0; v < V; ++v) {
    const int64_t at = to + v * lanes<A>;
    put<T, A>(static_cast<T*>(p.dst) + at, best[v], q.stream);
    if (!Track) continue;
    if (p.offsets && p.offset_bytes == 1) store_taps<A>(static_cast<uint8_t*>(p.offsets) + at, winner[v]);
    if (p.offsets && p.offset_bytes == 4) store_taps<A>(static_cast<int32_t*>(p.offsets) + at, winner[v]);
    if (p.indices) store_indices<A>(q, row, w, p.indices + at, winner[v]);
  }
}

// dgrad of max: gy of the windows that this pixel has won.
template <class T, int V, class Tap>
inline __attribute__((always_inline)) void won_pixel(const WindowPooling& q, const OutputRow& row, int64_t w,
                                                     int64_t c) {
  using A = accumulator_t<T>;
  const T* source = static_cast<const T*>(q.problem.src) + row.source + c;
  const Tap* winners = static_cast<const Tap*>(q.problem.offsets) + row.source + c;
  vec<A> sum[V] = {};
  for_taps(q, row, q.axis[2].spans[w], [&](int64_t at, int64_t number, const TapRow&) {
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(number);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const auto won = load_taps<A>(winners + at + v * lanes<A>) == tap;
      sum[v] += won ? load_as<A>(source + at + v * lanes<A>) : vec<A>{};
    }
  });
  for (int v = 0; v < V; ++v)
    put<T, A>(static_cast<T*>(q.problem.dst) + row.output + w * q.pixel + c + v * lanes<A>, sum[v], q.stream);
}

// Rows by themselves: two short sums are more accurate than a long one.
template <class T, int V, class A>
inline __attribute__((always_inline)) void add_rows(const WindowPooling& q, const OutputRow& row, const Span& span,
                                                    const T* source, vec<A> (&sum)[V]) {
  const int64_t step = q.axis[2].source_step * q.pixel;
  for (int64_t i = 0; i < row.count; ++i) {
    vec<A> part[V] = {};
    for (int64_t j = 0, at = row.taps[i].at + span.source * q.pixel; j < span.count; ++j, at += step) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) part[v] += load_as<A>(source + at + v * lanes<A>);
    }
    for (int v = 0; v < V; ++v) sum[v] += part[v];
  }
}

// Pixels [w, w + count) of an average, which all read the same sources. `alike`: and divide their sum by `share`, not
// each source by its own.
struct Mean {
  int64_t w, count;
  bool alike;
  int64_t share;
};

// Of average, both ways.
template <class T, int V>
inline __attribute__((always_inline)) void average_pixels(const WindowPooling& q, const OutputRow& row,
                                                          const TapList& taps, const Mean& mean, int64_t c) {
  using A = accumulator_t<T>;
  const Span& span = q.axis[2].spans[mean.w];
  const T* source = static_cast<const T*>(q.problem.src) + row.source + c;
  vec<A> sum[V] = {};
  const auto add = [&](int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] += load_as<A>(source + at + v * lanes<A>);
  };
  if (!mean.alike) {
    for_taps(q, row, span, [&](int64_t at, int64_t, const TapRow& taps) {
      const vec<A> each = broadcast(A(taps.covered * q.axis[2].covered[(at - taps.at) / q.pixel]));
      for (int v = 0; v < V; ++v) sum[v] += load_as<A>(source + at + v * lanes<A>) / each;
    });
  } else if (taps.count) {
    source += span.source * q.pixel;
    for (int64_t i = 0; i < taps.count; ++i) add(taps.at[i]);
  } else {
    add_rows<T, V, A>(q, row, span, source, sum);
  }
  const bool power_of_two = (mean.share & (mean.share - 1)) == 0;  // its reciprocal is exact
  const vec<A> share = broadcast(power_of_two ? 1 / A(mean.share) : A(mean.share));
  T* to = static_cast<T*>(q.problem.dst) + row.output + mean.w * q.pixel + c;
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = power_of_two ? sum[v] * share : sum[v] / share;
  for (int64_t i = 0; i < mean.count; ++i, to += q.pixel)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) put<T, A>(to + v * lanes<A>, sum[v], q.stream);
}

// Of the outputs from w on. Where the windows that dgrad reads are all of one size it divides once, too.
Mean mean_at(const WindowPooling& q, const OutputRow& row, bool alike, int64_t w) {
  const Pooling& p = q.problem;
  const Span* spans = q.axis[2].spans;
  const Span& span = spans[w];
  int64_t count = 1;
  while (p.backward && w + count < p.axis[2].out && same_sources(spans[w + count], span)) ++count;
  if (p.backward && (!row.count || !span.count)) return {w, count, true, 1};  // no window covers them
  if (p.divisor_override) return {w, count, true, p.divisor_override};
  if (!p.backward)
    return {w, 1, true, int64_t(q.axis[0].covered[row.d]) * q.axis[1].covered[row.h] * q.axis[2].covered[w]};
  if (!alike || !span.alike) return {w, count, false, 1};
  return {w, count, true, row.taps[0].covered * q.axis[2].covered[span.source]};
}

// Calls visit(a row of outputs) for rows [begin, end); `taps` has room for the rows of a window's taps.
template <class Visit>
void for_rows(const WindowPooling& q, TapRow* taps, int64_t begin, int64_t end, Visit visit) {
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t pitch = axis[2].in * q.pixel, slice = axis[1].in * pitch;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t h = index % axis[1].out, d = index / axis[1].out % axis[0].out;
    const int64_t plane = index / axis[1].out / axis[0].out;
    const int64_t count = tap_rows(q, d, h, pitch, taps, [&](int64_t, int64_t i) { return i * slice; });
    const bool repeats = index > begin && h > 0 && same_sources(q.axis[1].spans[h - 1], q.axis[1].spans[h]);
    visit(OutputRow{plane, d, h, count, taps, plane * axis[0].in * slice, index * axis[2].out * q.pixel, repeats});
  }
}

template <class T, bool Track>
void max_row(const WindowPooling& q, const OutputRow& row) {
  TapList taps;
  for (int64_t w = 0; w < q.problem.axis[2].out; ++w) {
    taps.make(q, row, q.axis[2].spans[w]);
    for_vectors<accumulator_t<T>>(q.pixel,
                                  [&](auto n, int64_t c) { max_pixel<T, n.value, Track>(q, row, taps, w, c); });
  }
}

template <class T, class Tap>
void won_row(const WindowPooling& q, const OutputRow& row) {
  for (int64_t w = 0; w < q.problem.axis[2].out; ++w)
    for_vectors<accumulator_t<T>>(q.pixel, [&](auto n, int64_t c) { won_pixel<T, n.value, Tap>(q, row, w, c); });
}

template <class T>
void average_row(const WindowPooling& q, const OutputRow& row) {
  const Pooling& p = q.problem;
  const int64_t length = p.axis[2].out * q.pixel;
  T* to = static_cast<T*>(p.dst) + row.output;
  if (p.backward && row.repeats && !q.stream) {
    copy_bytes(to, to - length, length * int64_t(sizeof(T)));
    return;
  }
  const bool alike = q.axis[0].spans[row.d].alike && q.axis[1].spans[row.h].alike;
  TapList lists[2];  // by turns, as dgrad's windows of stride 2
  for (int64_t w = 0; w < p.axis[2].out;) {
    const Mean mean = mean_at(q, row, alike, w);
    TapList& taps = lists[w % 2];
    taps.make(q, row, q.axis[2].spans[w]);
    for_vectors<accumulator_t<T>>(q.pixel,
                                  [&](auto n, int64_t c) { average_pixels<T, n.value>(q, row, taps, mean, c); });
    w += mean.count;
  }
}

template <class T>
void max_rows(const WindowPooling& q, TapRow* taps, int64_t begin, int64_t end) {
  const Pooling& p = q.problem;
  for_rows(q, taps, begin, end, [&](const OutputRow& row) {
    if (p.backward) return p.offset_bytes == 1 ? won_row<T, uint8_t>(q, row) : won_row<T, int32_t>(q, row);
    p.offsets || p.indices ? max_row<T, true>(q, row) : max_row<T, false>(q, row);
  });
}

template <class T>
void average_rows(const WindowPooling& q, TapRow* taps, int64_t begin, int64_t end) {
  for_rows(q, taps, begin, end, [&](const OutputRow& row) { average_row<T>(q, row); });
}

// ---- NCHW: as many planes as a vector has lanes, side by side in scratch, are pixels of as many channels ----
template <class T>
void planes_from_pixels(void* to, const void* pixels, int64_t place, int64_t elements, int64_t width, int64_t count) {
  const T* from = static_cast<const T*>(pixels);
  for (int64_t l = 0; l < count; ++l)
    for (int64_t i = 0; i < elements; ++i) static_cast<T*>(to)[(place + l) * elements + i] = from[i * width + l];
}

// gy over how many elements each window covers, so that nothing is left to divide.
template <class A>
void divide_windows(const WindowPooling& q, A* pixel) {
  const Pooling& p = q.problem;
  for (int64_t d = 0; d < p.axis[0].in; ++d)
    for (int64_t h = 0; h < p.axis[1].in; ++h)
      for (int64_t w = 0; w < p.axis[2].in; ++w, pixel += lanes<A>) {
        const int64_t covered = int64_t(q.axis[0].covered[d]) * q.axis[1].covered[h] * q.axis[2].covered[w];
        store(pixel, load(pixel) / broadcast(share_of<A>(p, covered)));
      }
}

// Pools planes [first, first + lanes), as far as there are any, by rows(the same pooling of one plane of pixels).
template <class T, class Rows>
void beside(const WindowPooling& q, int64_t first, char* memory, Rows rows) {
  using A = accumulator_t<T>;
  constexpr int64_t N = lanes<A>;
  const Pooling& p = q.problem;
  const int64_t count = least(N, q.planes - first), out = extent(p.axis);
  const int64_t in = p.axis[0].in * p.axis[1].in * p.axis[2].in;
  const auto take = [&](int64_t bytes) { return memory += bytes, memory - bytes; };
  WindowPooling pixels = q;
  Pooling& inner = pixels.problem;
  pixels.planes = 1, pixels.pixel = N;
  A* source = reinterpret_cast<A*>(take(in * N * int64_t(sizeof(A))));
  A* result = reinterpret_cast<A*>(take(out * N * int64_t(sizeof(A))));
  inner.src = source, inner.dst = result;
  if (p.indices) inner.indices = reinterpret_cast<int64_t*>(take(out * N * 8));
  if (p.offsets) inner.offsets = take(out * N * p.offset_bytes);
  read_planes(source, 0, static_cast<const T*>(p.src) + first * in, 1, in, {in, count});
  if (p.backward) divide_windows(q, source), inner.divisor_override = 1;
  rows(pixels);
  write_planes(static_cast<T*>(p.dst) + first * out, result, out, {out, count});
  if (p.indices) planes_from_pixels<int64_t>(p.indices, inner.indices, first, out, N, count);
  if (p.offsets && p.offset_bytes == 1) planes_from_pixels<uint8_t>(p.offsets, inner.offsets, first, out, N, count);
  if (p.offsets && p.offset_bytes == 4) planes_from_pixels<int32_t>(p.offsets, inner.offsets, first, out, N, count);
}

// Calls rows(T{}, task, room for its taps, begin, end) for rows of the tensor, or all those of some planes.
template <class Rows>
void for_tasks(const void* context, int64_t begin, int64_t end, Rows rows) {
  const auto& q = *static_cast<const WindowPooling*>(context);
  const int64_t taps = (q.tap_rows * int64_t(sizeof(TapRow)) + 63) & -64;
  visit_dtype(q.problem.dtype, [&](auto type) {
    using A = accumulator_t<decltype(type)>;
    if (!q.beside) {
      rows(type, q, static_cast<TapRow*>(scratch(size_t(taps))), begin, end);
      return;
    }
    const AxisMap(&axis)[3] = q.problem.axis;
    const int64_t out = extent(axis), in = axis[0].in * axis[1].in * axis[2].in;
    const int64_t winners = (q.problem.offsets ? q.problem.offset_bytes : 0) + (q.problem.indices ? 8 : 0);
    const int64_t values = (in + out) * int64_t(sizeof(A));
    char* memory = static_cast<char*>(scratch(size_t(taps + lanes<A> * (values + out * winners))));
    for (int64_t task = begin; task < end; ++task)
      beside<decltype(type)>(q, task * lanes<A>, memory + taps, [&](const WindowPooling& pixels) {
        rows(A{}, pixels, reinterpret_cast<TapRow*>(memory), 0, axis[0].out * axis[1].out);
      });
  });
  if (q.stream) end_stream();
}

}  // namespace

void max_pool_channels(const void* context, int64_t begin, int64_t end) {
  for_tasks(context, begin, end, [](auto type, const WindowPooling& q, TapRow* taps, int64_t first, int64_t last) {
    max_rows<decltype(type)>(q, taps, first, last);
  });
}

void average_pool_channels(const void* context, int64_t begin, int64_t end) {
  for_tasks(context, begin, end, [](auto type, const WindowPooling& q, TapRow* taps, int64_t first, int64_t last) {
    average_rows<decltype(type)>(q, taps, first, last);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
