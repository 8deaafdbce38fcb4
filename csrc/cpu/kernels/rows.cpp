// Depthwise 3x3 on the rows of a tensor where they lie, fprop and dgrad (cpu/rows.h): each vector of a source row is
// loaded once for up to three output rows, and the zeros left and right of a row are shifted into the vector beside
// them.
#include "cpu/kernels/rows.h"

#include "cpu/kernels/finish.h"
#include "cpu/kernels/planar.h"
#include "cpu/kernels/stream.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kTaps = 3, kGroup = 3;  // of a filter row; output rows that share loads

// Some output rows: their source rows, one more above and below, and the filter in the order of the source.
template <class A>
struct Group {
  const A* source[kGroup + kTaps - 1];
  const A* weights;
  A bias;
  A* out;
  int64_t pitch;
};

// One source row of V tiles, for output rows LO..HI of each; `weights` are those of row 0.
template <bool Ends, int LO, int HI, class A, int N, int V>
inline __attribute__((always_inline)) void add_row(const A* row, const A* weights, const int64_t* columns,
                                                   vec<A> (&sum)[N][V]) {
#pragma GCC unroll 3
  for (int s = 0; s < kTaps; ++s) {
    vec<A> weight[N];
#pragma GCC unroll 3
    for (int i = LO; i <= HI; ++i) weight[i] = broadcast(weights[s - i * kTaps]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      // The two ends of a row are taken together.
      const Place place = !Ends ? Place::inner : v ? Place::last : Place::first;
      const vec<A> value = source(row, columns[v], s, place);
#pragma GCC unroll 3
      for (int i = LO; i <= HI; ++i) sum[i][v] += weight[i] * value;
    }
  }
}

// N rows of V vectors of outputs, which start at `columns`.
template <bool Ends, int N, int V, class A>
void sum_tiles(const Group<A>& g, const int64_t* columns) {
  vec<A> sum[N][V];
#pragma GCC unroll 3
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[i][v] = broadcast(g.bias);
  const A* w = g.weights;
  add_row<Ends, 0, 0>(g.source[0], w, columns, sum);
  add_row<Ends, 0, (N > 1 ? 1 : 0)>(g.source[1], w + kTaps, columns, sum);
  add_row<Ends, 0, N - 1>(g.source[2], w + 2 * kTaps, columns, sum);
  if constexpr (N > 1) add_row<Ends, 1, N - 1>(g.source[3], w + 3 * kTaps, columns, sum);
  if constexpr (N > 2) add_row<Ends, 2, 2>(g.source[4], w + 4 * kTaps, columns, sum);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 3
    for (int i = 0; i < N; ++i) store(g.out + i * g.pitch + columns[v], sum[i][v]);
}

// N whole rows: the two ends, then what is between them, without a single vector left over where there are others.
template <int N, class A>
void sum_rows(const Group<A>& g, int64_t width) {
  const int64_t last = width - lanes<A>, ends[] = {0, last};
  sum_tiles<true, N, 2>(g, ends);
  int64_t columns[4], left = (last - 1) / lanes<A>;
  for (int64_t at = lanes<A>, some; left > 0; left -= some) {
    some = left == 5 || left == 6 ? 3 : least(left, 4);
    for (int64_t v = 0; v < some; ++v, at += lanes<A>) columns[v] = at;
    if (some == 4) sum_tiles<false, N, 4>(g, columns);
    if (some == 3) sum_tiles<false, N, 3>(g, columns);
    if (some == 2) sum_tiles<false, N, 2>(g, columns);
    if (some == 1) sum_tiles<false, N, 1>(g, columns);
  }
}

template <class A>
struct Memory {
  A *zeros, *lines, *weights;
  int64_t line;
};

template <class A>
void band(const RowsDepthwise& p, const Memory<A>& m, int64_t index) {
  const Correlation& c = p.problem;
  const int64_t height = c.axis[1].in, width = c.axis[2].in;
  const int64_t channel = index / p.bands % p.channels, n = index / p.bands / p.channels;
  const int64_t top = index % p.bands * p.rows, bottom = least(top + p.rows, height);
  const A* plane = static_cast<const A*>(c.src) + n * c.src_strides.n + channel / p.multiplier * c.src_strides.c;
  A* out = static_cast<A*>(c.dst) + n * c.dst_strides.n + channel * c.dst_strides.c + top * width;
  const A* filter = static_cast<const A*>(c.w) + channel * kTaps * kTaps;
  for (int t = 0; t < kTaps * kTaps; ++t) m.weights[t] = filter[p.reversed ? kTaps * kTaps - 1 - t : t];
  // Meanwhile, ask for what the next task will read.
  const A* ahead = plane + (p.bands > 1 ? bottom - top : height) * width;
  Group<A> g{{}, m.weights, c.bias ? static_cast<const A*>(c.bias)[channel] : 0, m.lines, m.line};
  for (int64_t h = top, some; h < bottom; h += some, out += some * width) {
    some = least(kGroup, bottom - h);
    prefetch(ahead + h * width, some * width * int64_t(sizeof(A)));
    for (int64_t k = 0; k < some + kTaps - 1; ++k)
      g.source[k] = h + k - 1 >= 0 && h + k - 1 < height ? plane + (h + k - 1) * width : m.zeros;
    if (!p.stream) g.out = out, g.pitch = width;
    if (some == 3) sum_rows<3>(g, width);
    if (some == 2) sum_rows<2>(g, width);
    if (some == 1) sum_rows<1>(g, width);
    if (p.stream) {
      for (int64_t i = 0; i < some; ++i) put_line(out + i * width, m.lines + i * m.line, width, true);
    } else {
      finish_in_place(c, out, some * width);
    }
  }
}

}  // namespace

void rows_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const RowsDepthwise*>(context);
  visit_dtype(p.problem.dtype, [&](auto type) {
    using A = decltype(type);
    if constexpr (std::is_same_v<A, accumulator_t<A>>) {
      Memory<A> m;
      m.line = (p.problem.axis[2].in + 15) / 16 * 16;
      m.zeros = static_cast<A*>(scratch(size_t((kGroup + 1) * m.line + kTaps * kTaps) * sizeof(A)));
      fill(m.zeros, m.line, A(0));
      m.lines = m.zeros + m.line, m.weights = m.lines + kGroup * m.line;
      for (int64_t index = begin; index < end; ++index) band(p, m, index);
      if (p.stream) end_stream();
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
