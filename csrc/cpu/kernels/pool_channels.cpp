// Pooling where the tensor lies, for pixels of at least a vector (cpu/windows.h): a few vectors of an output pixel stay
// in registers while its taps are walked. A task is a row of outputs; the rows of taps that it shares with the next one
// are still in cache then.
#include "cpu/kernels/pool_vectors.h"
#include "cpu/kernels/stream.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One row of outputs.
struct OutputRow {
  int64_t plane, d, h, count;  // of `taps`
  const TapRow* taps;
  int64_t source, output;  // elements from the tensors' starts
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
inline __attribute__((always_inline)) void max_pixel(const WindowPooling& q, const OutputRow& row, int64_t w,
                                                     int64_t c) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const Span& span = q.axis[2].spans[w];
  const T* source = static_cast<const T*>(p.src) + row.source + c;
  const bool none = !row.count || !span.count;
  const int64_t first = none ? 0 : row.taps[0].at + span.source * q.pixel;
  vec<A> best[V];
  vec<Integer<A>> winner[V];
  for (int v = 0; v < V; ++v) {  // the first tap wins even if it is -inf
    best[v] = none ? broadcast(-A(__builtin_inf())) : load_as<A>(source + first + v * lanes<A>);
    winner[v] = vec<Integer<A>>{} + Integer<A>(none ? -1 : row.taps[0].tap + span.tap);
  }
  for_taps(q, row, span, [&](int64_t at, int64_t number, const TapRow&) {
    const vec<Integer<A>> tap = vec<Integer<A>>{} + Integer<A>(number);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) take_larger<Track, A>(best[v], winner[v], load_as<A>(source + at + v * lanes<A>), tap);
  });
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

// Of average, both ways. Where the windows that dgrad reads are all of one size it divides once, too.
template <class T, int V>
inline __attribute__((always_inline)) void average_pixel(const WindowPooling& q, const OutputRow& row, bool alike,
                                                         int64_t w, int64_t c) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const Span& span = q.axis[2].spans[w];
  const T* source = static_cast<const T*>(p.src) + row.source + c;
  vec<A> sum[V] = {};
  A share = 1;
  if (p.backward && (!row.count || !span.count)) {
    // a pixel that no window covers
  } else if (!p.backward || p.divisor_override || (alike && span.alike)) {
    if (row.count * span.count <= 32) {
      for_taps(q, row, span, [&](int64_t at, int64_t, const TapRow&) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[v] += load_as<A>(source + at + v * lanes<A>);
      });
    } else {
      add_rows<T, V, A>(q, row, span, source, sum);
    }
    const int64_t rows = p.backward ? row.taps[0].covered : q.axis[0].covered[row.d] * q.axis[1].covered[row.h];
    share = share_of<A>(p, rows * q.axis[2].covered[p.backward ? span.source : w]);
  } else {
    for_taps(q, row, span, [&](int64_t at, int64_t, const TapRow& taps) {
      const vec<A> each = broadcast(A(taps.covered * q.axis[2].covered[(at - taps.at) / q.pixel]));
      for (int v = 0; v < V; ++v) sum[v] += load_as<A>(source + at + v * lanes<A>) / each;
    });
  }
  for (int v = 0; v < V; ++v)
    put<T, A>(static_cast<T*>(p.dst) + row.output + w * q.pixel + c + v * lanes<A>, sum[v] / broadcast(share),
              q.stream);
}

// Calls visit(T{}, the task, a row of outputs) for each row.
template <class Visit>
void for_rows(const void* context, int64_t begin, int64_t end, Visit visit) {
  const auto& q = *static_cast<const WindowPooling*>(context);
  const AxisMap(&axis)[3] = q.problem.axis;
  const int64_t pitch = axis[2].in * q.pixel, slice = axis[1].in * pitch;
  auto* taps = static_cast<TapRow*>(scratch(size_t(most_tap_rows(q)) * sizeof(TapRow)));
  visit_dtype(q.problem.dtype, [&](auto type) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t h = index % axis[1].out, d = index / axis[1].out % axis[0].out;
      const int64_t plane = index / axis[1].out / axis[0].out;
      const int64_t count = tap_rows(q, d, h, pitch, taps, [&](int64_t, int64_t i) { return i * slice; });
      visit(type, q, OutputRow{plane, d, h, count, taps, plane * axis[0].in * slice, index * axis[2].out * q.pixel});
    }
  });
  if (q.stream) end_stream();
}

// Calls visit(count of vectors as a constant, w, first element) for all vectors of a row of outputs.
template <class T, class Visit>
inline __attribute__((always_inline)) void for_pixels(const WindowPooling& q, Visit visit) {
  for (int64_t w = 0; w < q.problem.axis[2].out; ++w)
    for_vectors<accumulator_t<T>>(q.pixel, [&](auto count, int64_t c) { visit(count, w, c); });
}

template <class T, bool Track>
void max_row(const WindowPooling& q, const OutputRow& row) {
  for_pixels<T>(q, [&](auto n, int64_t w, int64_t c) { max_pixel<T, n.value, Track>(q, row, w, c); });
}

template <class T, class Tap>
void won_row(const WindowPooling& q, const OutputRow& row) {
  for_pixels<T>(q, [&](auto n, int64_t w, int64_t c) { won_pixel<T, n.value, Tap>(q, row, w, c); });
}

}  // namespace

void max_pool_channels(const void* context, int64_t begin, int64_t end) {
  for_rows(context, begin, end, [](auto type, const WindowPooling& q, const OutputRow& row) {
    using T = decltype(type);
    const Pooling& p = q.problem;
    if (p.backward) return p.offset_bytes == 1 ? won_row<T, uint8_t>(q, row) : won_row<T, int32_t>(q, row);
    p.offsets || p.indices ? max_row<T, true>(q, row) : max_row<T, false>(q, row);
  });
}

void average_pool_channels(const void* context, int64_t begin, int64_t end) {
  for_rows(context, begin, end, [](auto type, const WindowPooling& q, const OutputRow& row) {
    using T = decltype(type);
    const bool alike = q.axis[0].spans[row.d].alike && q.axis[1].spans[row.h].alike;
    for_pixels<T>(q, [&](auto n, int64_t w, int64_t c) { average_pixel<T, n.value>(q, row, alike, w, c); });
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
