// Depthwise convolution on interleaved planes, fprop and dgrad (cpu/interleaved.h). Up to fourteen outputs stay in
// registers through all taps of their windows: each tap is one vector of weights and a source vector an output, for
// each of the G terms of a group.
#include "cpu/kernels/interleaved.h"

#include "cpu/kernels/range.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One vector of channels of one phase.
template <class A>
struct Windows {
  const A *source, *weights;  // of the first tap of output 0
  int64_t rows, columns;      // taps
  int64_t row, column;        // elements from one tap's source to the next
  int64_t weight_row, weight_column;
  int64_t down, right;  // elements from one output's source to the next
  vec<A> bias;
  A* line;  // scratch: a row of outputs and kOverrun more
  // Where tap 0 of output 0 lies in the source; from one output, and one tap, to the next row; extents of the source.
  int64_t top, left, row_step, row_apart, height, width;
};

// Where outputs go, and how far apart.
template <class A>
struct Outputs {
  A* at;
  int64_t down, right;
};

// Q rows of P outputs.
template <int G, int Q, int P, class A>
void sum_windows(const Windows<A>& w, const A* source, const Outputs<A>& out) {
  vec<A> sum[Q][P];
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) sum[q][p] = w.bias;
  const A* weights = w.weights;
  const int64_t down = w.down, right = w.right;
  for (int64_t r = 0; r < w.rows; ++r, source += w.row, weights += w.weight_row) {
    const A *from = source, *weight_at = weights;
    for (int64_t s = 0; s < w.columns; ++s, from += w.column, weight_at += w.weight_column) {
      for_terms<G>([&](auto c) __attribute__((always_inline)) {
        const vec<A> weight = load(weight_at + c.value * kBlock);
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) sum[q][p] += weight * term<G, c.value>(from + q * down + p * right);
      });
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store(out.at + q * out.down + p * out.right, sum[q][p]);
}

// S taps of P outputs, all in consecutive pixels: each is loaded once for all the taps that use it.
template <int G, int S, int P, class A>
inline __attribute__((always_inline)) void add_neighbours(const A* from, const A* weights, int64_t weight_column,
                                                          vec<A> (&sum)[P]) {
  for_terms<G>([&](auto c) __attribute__((always_inline)) {
    vec<A> weight[S];
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) weight[s] = load(weights + s * weight_column + c.value * kBlock);
#pragma GCC unroll 16
    for (int k = 0; k < P + S - 1; ++k) {
      const vec<A> value = term<G, c.value>(from + k * lanes<A>);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
        if (k >= p && k < p + S) sum[p] += weight[k - p] * value;
    }
  });
}

// Taps [s, end) of one row of the filter, as many at a time as there are registers for.
template <int G, int P, class A>
inline __attribute__((always_inline)) void add_filter_row(const Windows<A>& w, const A* from, const A* weights,
                                                          int64_t s, int64_t end, vec<A> (&sum)[P]) {
  const int64_t by = w.weight_column;
  const auto add = [&](auto columns) __attribute__((always_inline)) {
    add_neighbours<G, columns.value, P>(from + s * lanes<A>, weights + s * by, by, sum);
    s += columns.value;
  };
  if constexpr (G == 1) {
    while (s + 5 <= end && s + 7 != end) add(Term<5>());
    if (s + 4 <= end) add(Term<4>());
  }
  while (s + 3 <= end) add(Term<3>());
  if constexpr (G > 1)
    if (s + 2 <= end) add(Term<2>());
  while (s < end) add(Term<1>());
}

// The taps of a filter row that any of outputs [i, i + P) needs: of a long one, many may lie on padding.
template <int P, class A>
inline __attribute__((always_inline)) Range taps_of(const Windows<A>& w, int64_t i) {
  if (w.columns <= P) return {0, w.columns};
  const Range taps{most(0, -(w.left + i + P - 1)), least(w.columns, w.width - w.left - i)};
  return {taps.first, most(taps.first, taps.last)};
}

// A row of outputs where both taps and outputs are neighbours, P at a time: the last tile overlaps the one before it.
template <int G, int P, class A>
void sum_row(const Windows<A>& w, const A* source, const Outputs<A>& out, int64_t length) {
  for (int64_t next = 0; next < length; next += P) {
    const int64_t i = least(next, length - P);
    const Range taps = taps_of<P>(w, i);
    vec<A> sum[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = w.bias;
    for (int64_t r = 0; r < w.rows; ++r)
      add_filter_row<G, P>(w, source + r * w.row + i * lanes<A>, w.weights + r * w.weight_row, taps.first, taps.last,
                           sum);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) store(out.at + (i + p) * out.right, sum[p]);
  }
}

// Likewise with a filter so large that its weights and the rows under it are not in L1 together: a row of it at a time,
// the sums in memory meanwhile. The last tile overruns the row, in `w.line` and in the source.
template <int P, class A>
void sum_row_by_rows(const Windows<A>& w, const A* source, const Outputs<A>& out, int64_t length) {
  for (int64_t i = 0; i < length; ++i) store(w.line + i * lanes<A>, w.bias);
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t i = 0; i < length; i += P) {
      A* line = w.line + i * lanes<A>;
      const Range taps = taps_of<P>(w, i);
      vec<A> sum[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p] = load(line + p * lanes<A>);
      add_filter_row<1, P>(w, source + r * w.row + i * lanes<A>, w.weights + r * w.weight_row, taps.first, taps.last,
                           sum);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) store(line + p * lanes<A>, sum[p]);
    }
  for (int64_t i = 0; i < length; ++i) store(out.at + i * out.right, load(w.line + i * lanes<A>));
}

constexpr int64_t kManyTaps = 128;

// Filter rows that lie on padding are left out.
template <int G, int P, class A>
void sum_neighbour_rows(const Windows<A>& w, Outputs<A> out, int64_t rows, int64_t length) {
  Windows<A> now = w;
  const A* source = w.source;
  for (int64_t h = 0; h < rows; ++h, source += w.down, out.at += out.down) {
    const Range taps = inside(w.top + h * w.row_step, w.row_apart, w.height, w.rows);
    now.rows = taps.last - taps.first, now.weights = w.weights + taps.first * w.weight_row;
    const A* from = source + taps.first * w.row;
    if (G == 1 && now.rows * now.columns > kManyTaps) {
      sum_row_by_rows<P>(now, from, out, length);
    } else {
      sum_row<G, P>(now, from, out, length);
    }
  }
}

// `rows` rows of at least P outputs: the last tile of a row overlaps the one before it.
template <int G, int Q, int P, class A>
void sum_rows(const Windows<A>& w, Outputs<A> out, int64_t rows, int64_t length) {
  const A* source = w.source;
  A* const start = out.at;
  for (int64_t h = 0; h < rows;) {
    const bool many = h + Q <= rows;
    for (int64_t next = 0; next < length; next += P) {
      const int64_t i = least(next, length - P);
      out.at = start + h * out.down + i * out.right;
      const A* from = source + h * w.down + i * w.right;
      many ? sum_windows<G, Q, P>(w, from, out) : sum_windows<G, 1, P>(w, from, out);
    }
    h += many ? Q : 1;
  }
}

// Of the tiles that fit a row, the one that computes least: ten outputs or fewer take as long as ten, because sums
// wait for each other.
template <int G, class A>
void sum_plane(const Windows<A>& w, const Outputs<A>& out, int64_t rows, int64_t length) {
  if (length >= 7 && w.right == lanes<A> && w.column == lanes<A>) {
    const bool eight = (length + 7) / 8 * 80 <= (length + 6) / 7 * 76;
    return eight ? sum_neighbour_rows<G, 8>(w, out, rows, length) : sum_neighbour_rows<G, 7>(w, out, rows, length);
  }
  int64_t best = 1, least_cost = length * 10;
  for (const int64_t p : {14, 8, 7, 4, 2}) {
    if (p > length || (G > 1 && (p == 14 || p == 2))) continue;
    const int64_t each = p == 14 ? 15 : p == 8 ? 10 : p == 7 ? 8 : p == 4 ? 6 : 5;
    const int64_t cost = (length + p - 1) / p * each;
    if (cost < least_cost) best = p, least_cost = cost;
  }
  if constexpr (G == 1) {  // fewer tiles where each has several terms
    if (best == 14) return sum_rows<G, 1, 14>(w, out, rows, length);
    if (best == 2) return sum_rows<G, 4, 2>(w, out, rows, length);
  }
  if (best == 8) return sum_rows<G, 1, 8>(w, out, rows, length);
  if (best == 7) return sum_rows<G, G == 1 ? 2 : 1, 7>(w, out, rows, length);
  if (best == 4) return sum_rows<G, G == 1 ? 3 : 2, 4>(w, out, rows, length);
  sum_rows<G, 4, 1>(w, out, rows, length);
}

// Band `band` of vector v of a block: `out` is the first of the band's outputs.
template <int G, class A>
void sum_band(const Interleaved& b, A* memory, const A* source, const A* packed, int64_t band, const Outputs<A>& out) {
  constexpr int64_t N = lanes<A>;
  Windows<A> w;
  w.bias = load(packed + b.taps * G * kBlock), w.line = memory;
  w.down = b.height.mul * b.pitch * N, w.right = b.width.mul * N;
  w.row_step = b.height.mul, w.height = b.height.in, w.width = b.width.in;
  for (int64_t h = 0; h < b.height.div; ++h) {
    const PhaseAxis& rows = b.rows_of[h];
    const int64_t count = least(b.phase_rows, rows.outputs - band * b.phase_rows);
    for (int64_t f = 0; f < b.width.div; ++f) {
      const PhaseAxis& columns = b.columns_of[f];
      w.rows = rows.taps, w.columns = columns.taps, w.row_apart = rows.apart;
      w.top = rows.first + band * b.phase_rows * b.height.mul, w.left = columns.first;
      if (b.height.pad_mode != PadMode::zeros) w.top = w.left = 0, w.height = w.width = kEverywhere;
      w.row = rows.apart * b.pitch * N, w.column = columns.apart * N;
      w.source = source + (rows.first - b.top) * b.pitch * N + (columns.first + b.lead) * N;
      const int64_t across = b.width.taps * G * kBlock;
      w.weights = packed + rows.tap * across + columns.tap * G * kBlock;
      w.weight_row = rows.tap_step * across, w.weight_column = columns.tap_step * G * kBlock;
      const Outputs<A> each{out.at + h * out.down + f * out.right, b.height.div * out.down, b.width.div * out.right};
      sum_plane<G>(w, each, count, columns.outputs);
    }
  }
}

template <int G, class T, class A>
void interleaved_band(const InterleavedDepthwise& p, int64_t n, int64_t block, int64_t band, A* memory) {
  const Interleaved& b = *p.layout;
  const Correlation& c = p.problem;
  const int64_t first = block * kBlock, channels = least(kBlock, p.channels - first);
  A *source = memory, *out = source + b.elements(), *line = out + b.out_rows() * b.width.out * lanes<A>;
  read_band(b, c.layout, source, static_cast<const T*>(c.src) + n * c.src_strides.n + first * c.src_strides.c,
            c.src_strides, channels, band);
  const int64_t top = band * b.out_rows(), pixels = least(b.out_rows(), b.height.out - top) * b.width.out;
  const A* packed = static_cast<const A*>(p.packed) + block * (b.taps * G + 1) * kBlock;
  T* to = static_cast<T*>(c.dst) + n * c.dst_strides.n + first * c.dst_strides.c + top * c.dst_strides.at[1];
  const int64_t vector = b.rows * b.pitch * lanes<A>;
  for (int64_t v = 0; v * lanes<A> < channels;
       ++v, source += vector, packed += lanes<A>, to += lanes<A> * c.dst_strides.c) {
    const int64_t count = least(lanes<A>, channels - v * lanes<A>);
    if constexpr (std::is_same_v<T, A>)
      if (c.layout == Layout::nhwc && count == lanes<A>) {
        sum_band<G>(b, line, source, packed, band, Outputs<A>{to, c.dst_strides.at[1], c.dst_strides.at[2]});
        continue;
      }
    sum_band<G>(b, line, source, packed, band, Outputs<A>{out, b.width.out * lanes<A>, lanes<A>});
    if (c.layout == Layout::nchw) {
      write_planes(to, out, pixels, {c.dst_strides.c, count});
    } else {
      write_pixels(to, out, pixels, c.dst_strides.at[2], count);
    }
  }
}

}  // namespace

void interleaved_pack(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const InterleavedDepthwise*>(context);
  const Correlation& c = p.problem;
  const int64_t taps = p.layout->taps, terms = p.terms;
  visit_dtype(c.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t block = begin; block < end; ++block) {
      auto* to = static_cast<accumulator_t<T>*>(p.packed) + block * (taps * terms + 1) * kBlock;
      const int64_t first = block * kBlock, count = least(kBlock, p.channels - first);
      for (int64_t lane = 0; lane < kBlock; ++lane)
        to[taps * terms * kBlock + lane] =
            c.bias && lane < count ? widen(static_cast<const T*>(c.bias)[first + lane]) : 0;
      if (terms == 1) {
        read_lanes(static_cast<const T*>(c.w) + first * c.w_group, c.w_group, count, taps,
                   [&](int64_t t) { return to + t * kBlock; });
        continue;
      }
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const int64_t channel = least(first + lane, p.channels - 1);
        const T* filter = static_cast<const T*>(c.w) + channel / terms * c.w_group + channel % terms * c.w_dst;
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t each = 0; each < terms; ++each)
            to[(t * terms + each) * kBlock + lane] = widen(filter[t * c.w_tap[2] + each * c.w_src]);
      }
    }
  });
}

void interleaved_depthwise(const void* context, int64_t begin, int64_t end) {
  const auto& p = *static_cast<const InterleavedDepthwise*>(context);
  const Interleaved& b = *p.layout;
  visit_dtype(p.problem.dtype, [&](auto type) {
    using T = decltype(type);
    using A = accumulator_t<T>;
    const int64_t rows = b.out_rows() + 1, elements = b.elements() + (rows * b.width.out + kOverrun) * lanes<A>;
    A* memory = static_cast<A*>(scratch(size_t(elements) * sizeof(A)));
    zero(memory, elements);
    // Neighbours share what is read and written: NCHW bands their rows, NHWC blocks their pixels.
    const bool nchw = p.problem.layout == Layout::nchw;
    const int64_t inner = nchw ? b.bands : p.blocks, each = p.blocks * b.bands;
    with_terms<A>(p.terms, [&](auto terms) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t outside = index % each / inner, inside = index % inner;
        interleaved_band<terms.value, T>(p, index / each, nchw ? outside : inside, nchw ? inside : outside, memory);
      }
    });
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
