// Depthwise convolution in NCHW, fprop and dgrad: lanes lie along the width (cpu/depthwise.h). The sums of three output
// rows times four vectors stay in registers, so that a source vector is loaded once for up to three filter rows.
#include "cpu/kernels/planar.h"

#include "cpu/kernels/finish.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int kRows = 3, kTiles = 4;
constexpr int64_t kChunk = kTiles * kRows;  // rows whose tiles are taken together

// What the sums of one phase read and where they go.
template <class A>
struct Sums {
  const Strip* strips;
  int64_t count;  // of strips
  const int64_t* columns;
  int64_t width, next;  // filter columns; elements from one source row of a strip to the next
  const A *source, *weights;
  A bias;
  A* out;
  int64_t pitch;  // from one of a tile's output rows to the next
};

// A vector of outputs in each of N rows: where its sources and its outputs start, in elements.
struct Tile {
  int64_t source, out;
};

// One source row of V tiles, for output rows LO..HI of each; `weights` are those of row LO.
template <int LO, int HI, class A, int N, int V>
inline __attribute__((always_inline)) void add_row(const Sums<A>& r, const A* const (&source)[V], int64_t row,
                                                   const A* weights, vec<A> (&sum)[N][V]) {
  for (int64_t s = 0; s < r.width; ++s, ++weights) {
    const int64_t from = row + r.columns[s];
    vec<A> weight[N];
#pragma GCC unroll 4
    for (int i = LO; i <= HI; ++i) weight[i] = broadcast(weights[(LO - i) * r.width]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const vec<A> value = load(source[v] + from);
#pragma GCC unroll 4
      for (int i = LO; i <= HI; ++i) sum[i][v] += weight[i] * value;
    }
  }
}

template <class A, int N, int V>
void sum_tiles(const Sums<A>& r, const Tile* tiles) {
  const A* source[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) source[v] = r.source + tiles[v].source;
  vec<A> sum[N][V];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[i][v] = broadcast(r.bias);
  const A* w = r.weights;
  for (const Strip* strip = r.strips; strip < r.strips + r.count; ++strip, w += r.width) {
    int64_t row = strip->offset;
    if constexpr (N == 1) {
      add_row<0, 0>(r, source, row, w, sum);
      for (int64_t m = 1; m < strip->rows; ++m) add_row<0, 0>(r, source, row += r.next, w += r.width, sum);
    } else if (strip->rows == 1) {
      add_row<0, 0>(r, source, row, w, sum);
      add_row<1, 1>(r, source, row + r.next, w, sum);
      add_row<2, 2>(r, source, row + 2 * r.next, w, sum);
    } else {
      add_row<0, 0>(r, source, row, w, sum);
      add_row<0, 1>(r, source, row += r.next, w += r.width, sum);
      for (int64_t m = 2; m < strip->rows; ++m) add_row<0, 2>(r, source, row += r.next, w += r.width, sum);
      add_row<1, 2>(r, source, row += r.next, w, sum);
      add_row<2, 2>(r, source, row += r.next, w, sum);
    }
  }
  A* out[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) out[v] = r.out + tiles[v].out;
  const int64_t pitch = r.pitch;
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i, out[v] += pitch) store(out[v], sum[i][v]);
}

// N rows of `length` outputs, `groups` times: source and output step by `source_step` and `out_step` from one to the
// next. Tiles are taken four at a time, whichever row they are of, for enough sums in flight.
template <class A, int N>
void sum_rows(const Sums<A>& r, int64_t groups, int64_t source_step, int64_t out_step, int64_t length) {
  Tile tiles[kTiles];
  int count = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t at = 0; at < length; at += lanes<A>) {
      // The last vector overlaps the one before it, or overruns the row where there is none.
      const int64_t column = most(0, least(at, length - lanes<A>));
      tiles[count++] = {g * source_step + column, g * out_step + column};
      if (count == kTiles) sum_tiles<A, N, kTiles>(r, tiles), count = 0;
    }
  if (count == 1) sum_tiles<A, N, 1>(r, tiles);
  if (count == 2) sum_tiles<A, N, 2>(r, tiles);
  if (count == 3) sum_tiles<A, N, 3>(r, tiles);
}

template <class A>
struct Memory {
  A *source, *weights, *lines;
};

// Output rows of one phase in a band.
template <class T>
struct Target {
  const PlanarPhase* phases;  // one for each phase of the columns
  T* out;                     // the first row
  int64_t pitch, rows;        // elements from one row to the next; how many there are
  accumulator_t<T> bias;
};

// Rows i, i + share, ..., `count` of them. Rows of at least a vector are computed in the tensor itself, where its type
// and the phases allow it.
template <class T, class A>
void row_chunk(const Planar& b, const Target<T>& t, const Memory<A>& m, int64_t i, int64_t count) {
  const AxisMap& width = b.axis[2];
  const bool direct = std::is_same_v<A, T> && width.div == 1 && width.out >= lanes<A>;
  const int64_t groups = count / kRows, pitch = b.share * t.pitch, line = width.div * b.out_line;
  T* out = t.out + i * t.pitch;
  for (int64_t f = 0; f < width.div; ++f) {
    const PlanarPhase& phase = t.phases[f];
    const int64_t length = b.phase[2][f].outputs;
    Sums<A> r{b.strips + phase.first_strip,
              phase.strips,
              b.columns + phase.first_column,
              phase.columns,
              b.next,
              m.source + i * b.axis[1].mul * b.row,
              m.weights + phase.first_weight,
              t.bias,
              m.lines + f * b.out_line,
              line};
    if constexpr (std::is_same_v<A, T>)
      if (direct) r.out = out, r.pitch = pitch;
    sum_rows<A, kRows>(r, groups, kRows * b.next, kRows * r.pitch, length);
    r.source += groups * kRows * b.next, r.out += groups * kRows * r.pitch;
    sum_rows<A, 1>(r, count % kRows, b.next, r.pitch, length);
  }
  if (direct) return;
  const bool in_order = width.div == 1 && b.axis[1].div == 1 && b.share == 1;
  const T* end = t.out + t.rows * t.pitch;
  for (int64_t row = 0; row < count; ++row, out += pitch) {
    const A* from = m.lines + row * line;
    // A short row's vector overruns it, where that is into rows that are yet to come.
    if (width.out < lanes<A> && in_order && out + lanes<A> <= end) {
      store_as<T, A>(out, load(from));
    } else {
      join_row(out, from, b.out_line, width.out, width.div);
    }
  }
}

// Where a task reads and writes.
template <class T>
struct Place {
  const T *from, *end;  // the source plane; the end of the source
  T* to;
  int64_t channel, d, band;
};

template <class T>
void planar_band(const PlanarDepthwise& p, const Place<T>& at, const Memory<accumulator_t<T>>& m) {
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
      for (int64_t i = first; i < t.rows; i += kChunk * b.share) {
        const int64_t count = least(kChunk, (t.rows - i - 1) / b.share + 1);
        if (h == 0) prefetch(ahead + i * ahead_row, count * ahead_row * int64_t(sizeof(T)));
        row_chunk(b, t, m, i, count);
      }
    finish_in_place(c, t.out, t.rows * t.pitch);  // fprop's rows follow one another; dgrad has no epilogue
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
    const int64_t lines = kChunk * b.axis[2].div * b.out_line;
    Memory<A> m;
    m.source = static_cast<A*>(scratch(size_t(b.elements + lines + b.taps) * sizeof(A)));
    m.lines = m.source + b.elements, m.weights = m.lines + lines;
    fill(m.source, b.elements, A(0));
    const int64_t slices = b.axis[0].out, per_plane = b.bands * slices;
    int64_t n = begin / per_plane / p.channels;
    Place<T> at;
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
