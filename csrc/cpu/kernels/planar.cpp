// Depthwise convolution in NCHW, fprop and dgrad: lanes lie along the width (cpu/depthwise.h). The sums of three output
// rows times four vectors stay in registers, so that a source vector is loaded once for up to three filter rows.
#include "cpu/kernels/planar.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kRows = 3, kVectors = 4;

// What the sums of one phase read and where they go.
template <class A>
struct Rows {
  const Strip* strips;
  int64_t count;  // of strips
  const int64_t* columns;
  int64_t width, next;  // filter columns; elements from one source row of a strip to the next
  const A* source;
  const A* weights;
  A bias;
  A* out;
  int64_t pitch;  // from one of the output rows to the next
};

// One source row, for output rows LO..HI; `weights` are those of row LO. The last vector starts at `last`.
template <int LO, int HI, class A, int N, int V>
inline __attribute__((always_inline)) void add_row(const Rows<A>& r, const A* source, const A* weights, int64_t last,
                                                   vec<A> (&sum)[N][V]) {
  for (int64_t s = 0; s < r.width; ++s, ++weights) {
    const A* from = source + r.columns[s];
    vec<A> weight[N];
#pragma GCC unroll 4
    for (int i = LO; i <= HI; ++i) weight[i] = broadcast(weights[(LO - i) * r.width]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const vec<A> value = load(from + (v == V - 1 ? last : v * lanes<A>));
#pragma GCC unroll 4
      for (int i = LO; i <= HI; ++i) sum[i][v] += weight[i] * value;
    }
  }
}

// N output rows times V vectors from column `column` on, the last of them `last` columns further.
template <class A, int N, int V>
void block(const Rows<A>& r, int64_t column, int64_t last) {
  vec<A> sum[N][V];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[i][v] = broadcast(r.bias);
  const A* weights = r.weights;
  for (const Strip* strip = r.strips; strip < r.strips + r.count; ++strip) {
    const A* source = r.source + strip->offset + column;
    const A* w = weights;
    int64_t m = 0;
    if constexpr (N == 1) {
      for (; m < strip->rows; ++m, source += r.next, w += r.width) add_row<0, 0>(r, source, w, last, sum);
    } else if (strip->rows == 1) {
      add_row<0, 0>(r, source, w, last, sum);
      add_row<1, 1>(r, source + r.next, w, last, sum);
      add_row<2, 2>(r, source + 2 * r.next, w, last, sum);
    } else {
      add_row<0, 0>(r, source, w, last, sum);
      source += r.next, w += r.width;
      add_row<0, 1>(r, source, w, last, sum);
      for (m = 2; m < strip->rows; ++m) {
        source += r.next, w += r.width;
        add_row<0, 2>(r, source, w, last, sum);
      }
      source += r.next;
      add_row<1, 2>(r, source, w, last, sum);
      source += r.next;
      add_row<2, 2>(r, source, w, last, sum);
    }
    weights += strip->rows * r.width;
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(r.out + i * r.pitch + column + (v == V - 1 ? last : v * lanes<A>), sum[i][v]);
}

// N whole rows of `length` outputs. The last vector overlaps the one before it, or overruns the row where there is
// none.
template <class A, int N>
void whole_rows(const Rows<A>& r, int64_t length) {
  constexpr int64_t by = lanes<A>;
  int64_t column = 0;
  for (; length - column > kVectors * by; column += kVectors * by)
    block<A, N, kVectors>(r, column, (kVectors - 1) * by);
  const int64_t last = length < by ? 0 : length - column - by;
  switch ((length - column + by - 1) / by) {
    case 1: return block<A, N, 1>(r, column, last);
    case 2: return block<A, N, 2>(r, column, last);
    case 3: return block<A, N, 3>(r, column, last);
    case 4: return block<A, N, 4>(r, column, last);
  }
}

template <class A>
struct Memory {
  A *source, *weights, *lines;
};

// One band of one plane.
template <class T>
struct Target {
  const PlanarPhase* phases;  // of the row's phase, one for each phase of the columns
  T* out;                     // of the band's first row of this phase
  int64_t pitch, rows;        // elements between rows of the phase; how many
  accumulator_t<T> bias;
};

// Rows i, i + share, ... (N of them) of one phase of the band's rows: computed in the tensor itself where a vector
// fits.
template <int N, class T, class A>
void row_group(const Planar& b, const Target<T>& t, const Memory<A>& m, int64_t i) {
  const AxisMap& width = b.axis[2];
  const int64_t pitch = b.share * t.pitch;
  T* out = t.out + i * t.pitch;
  // A short row's vector overruns it: only into rows of this band that are yet to come.
  const bool fits = width.out >= lanes<A> ||
                    (t.pitch == width.out && b.share == 1 && (i + N - 1) * t.pitch + lanes<A> <= t.rows * t.pitch);
  const bool direct = std::is_same_v<A, T> && width.div == 1 && fits;
  for (int64_t f = 0; f < width.div; ++f) {
    const PlanarPhase& phase = t.phases[f];
    Rows<A> r{b.strips + phase.first_strip,
              phase.strips,
              b.columns + phase.first_column,
              phase.columns,
              b.next,
              m.source + i * b.axis[1].mul * b.row,
              m.weights + phase.first_weight,
              t.bias,
              m.lines + f * b.out_line,
              width.div * b.out_line};
    if constexpr (std::is_same_v<A, T>)
      if (direct) r.out = out, r.pitch = pitch;
    whole_rows<A, N>(r, b.phase[2][f].outputs);
  }
  if (direct) return;
  for (int64_t row = 0; row < N; ++row, out += pitch) {
    const A* line = m.lines + row * width.div * b.out_line;
    if (fits && width.div == 1 && width.out < lanes<A>) {
      store_as<T, A>(out, load(line));
    } else {
      join_row(out, line, b.out_line, width.out, width.div);
    }
  }
}

// Where a task reads and writes.
template <class T>
struct Planes {
  const T *from, *end;  // the source plane; the end of the source
  T* to;
  int64_t channel, d, band;
};

template <class T>
void planar_band(const PlanarDepthwise& p, const Planes<T>& at, const Memory<accumulator_t<T>>& m) {
  const Planar& b = *p.planar;
  const Correlation& c = p.problem;
  fill_band(b, m.source, at.from, c.src_strides, at.d, at.band, at.end);
  const T* filter = static_cast<const T*>(c.w) + at.channel * b.taps;
  for (int64_t t = 0; t < b.taps; ++t) m.weights[t] = widen(filter[b.weights[t]]);
  const AxisMap& height = b.axis[1];
  // Meanwhile, ask for what the next task will read.
  const T* ahead = at.from + (b.bands > 1 ? (at.band + 1) * b.height * height.mul : height.in) * c.src_strides.at[1];
  const int64_t ahead_row = height.mul * c.src_strides.at[1];
  Target<T> t;
  t.bias = c.bias ? widen(static_cast<const T*>(c.bias)[at.channel]) : 0;
  t.pitch = height.div * c.dst_strides.at[1];
  for (int64_t h = 0; h < height.div; ++h) {
    t.phases = b.phases + (at.d % b.axis[0].div * height.div + h) * b.axis[2].div;
    t.out = at.to + at.d * c.dst_strides.at[0] + (at.band * b.height * height.div + h) * c.dst_strides.at[1];
    t.rows = least(b.height, b.phase[1][h].outputs - at.band * b.height);
    for (int64_t first = 0; first < least(b.share, t.rows); ++first)
      for (int64_t i = first; i < t.rows;) {
        const bool many = i + (kRows - 1) * b.share < t.rows;
        if (h == 0) prefetch(ahead + i * ahead_row, (many ? kRows : 1) * ahead_row * int64_t(sizeof(T)));
        many ? row_group<kRows>(b, t, m, i) : row_group<1>(b, t, m, i);
        i += (many ? kRows : 1) * b.share;
      }
  }
}

}  // namespace

void planar_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const PlanarDepthwise*>(context);
  const Correlation& c = p.problem;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const Planar& b = *p.planar;
    const int64_t lines = kRows * b.axis[2].div * b.out_line;
    Memory<A> m;
    m.source = static_cast<A*>(scratch(size_t(b.elements + lines + b.taps) * sizeof(A)));
    m.lines = m.source + b.elements, m.weights = m.lines + lines;
    fill(m.source, b.elements, A(0));
    const int64_t slices = b.axis[0].out, per_plane = b.bands * slices;
    int64_t n = begin / per_plane / p.channels;
    Planes<T> at;
    at.channel = begin / per_plane % p.channels, at.d = begin / b.bands % slices, at.band = begin % b.bands;
    at.end = static_cast<const T*>(c.src) + c.n * c.src_strides.n;
    for (int64_t index = begin; index < end; ++index) {
      at.from = static_cast<const T*>(c.src) + n * c.src_strides.n;
      at.from += (p.multiplier == 1 ? at.channel : at.channel / p.multiplier) * c.src_strides.c;
      at.to = static_cast<T*>(c.dst) + n * c.dst_strides.n + at.channel * c.dst_strides.c;
      planar_band(p, at, m);
      if (++at.band < b.bands) continue;
      at.band = 0;
      if (++at.d < slices) continue;
      at.d = 0;
      if (++at.channel == p.channels) at.channel = 0, ++n;
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
