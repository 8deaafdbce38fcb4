// Tensor rows in and out of interleaved scratch (cpu/interleaved.h).
#pragma once

#include "cpu/interleaved.h"
#include "cpu/kernels/transpose.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class A>
constexpr int kVectors = kBlock / lanes<A>;

template <class A>
void zero(A* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = A(0);
}

template <int N>
struct Term {
  static constexpr int value = N;
};

// Calls visit(Term<0>()) to visit(Term<G - 1>()).
template <int G, int First = 0, class Visit>
inline __attribute__((always_inline)) void for_terms(Visit visit) {
  if constexpr (First < G) {
    visit(Term<First>());
    for_terms<G, First + 1>(visit);
  }
}

// Channel C of each group of G in all lanes of the group.
template <int G, int C, class A>
inline __attribute__((always_inline)) vec<A> term(const A* from) {
  if constexpr (G == 1) {
    return load(from);
  } else if constexpr (G == lanes<A>) {
    return broadcast(from[C]);
  } else {
    mask_of<A> same;
#pragma GCC unroll 16
    for (int l = 0; l < lanes<A>; ++l) same[l] = l / G * G + C;
    return __builtin_shuffle(load(from), same);
  }
}

// Calls run(Term<G>()) for the groups of the entry's table that fill a vector or less.
template <class A, class Run>
void with_terms(int64_t terms, Run run) {
  if constexpr (lanes<A> >= 4)
    if (terms == 4) return run(Term<4>());
  if constexpr (lanes<A> >= 8)
    if (terms == 8) return run(Term<8>());
  run(Term<1>());
}

// The channels of a vector: elements of the tensor from one to the next, and how many lanes exist.
struct Channels {
  int64_t pitch, count;
};

// Pixels are far apart in memory: each is asked for this many before its turn, past the end of the tensor too.
constexpr int64_t kAhead = 16;

// NHWC: `pixels` of a row, `pixel` elements apart.
template <class A, class T>
void read_pixels(A* to, const T* from, int64_t pixels, int64_t pixel, int64_t count) {
  if (count == lanes<A>) {
    for (int64_t i = 0; i < pixels; ++i, to += lanes<A>, from += pixel) {
      __builtin_prefetch(from + kAhead * pixel);
      store(to, load_as<A>(from));
    }
  } else {
    for (int64_t i = 0; i < pixels; ++i, to += lanes<A>, from += pixel)
      for (int64_t l = 0; l < count; ++l) to[l] = widen(from[l]);
  }
}

// NCHW: `rows` whole rows of `width` pixels, which follow one another in each plane; those in scratch are `pitch`
// elements apart. A lane that does not exist copies lane 0.
template <class A, class T>
void read_planes(A* to, int64_t pitch, const T* from, int64_t rows, int64_t width, const Channels& channels) {
  constexpr int64_t N = lanes<A>;
  const int64_t total = rows * width;
  if (total < N) {
    for (int64_t i = 0; i < total; ++i)
      for (int64_t l = 0; l < channels.count; ++l)
        to[i / width * pitch + i % width * N + l] = widen(from[l * channels.pitch + i]);
    return;
  }
  const T* plane[N];
  for (int64_t l = 0; l < N; ++l) plane[l] = from + (l < channels.count ? l : 0) * channels.pitch;
  for (int64_t next = 0; next < total; next += N) {
    const int64_t i = least(next, total - N);  // the last pixels overlap those before
    vec<A> row[N];
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) row[l] = load_as<A>(plane[l] + i);
    transpose<A>(row);
    int64_t column = i % width;
    A* line = to + i / width * pitch;
    if (column + N <= width) {
#pragma GCC unroll 16
      for (int l = 0; l < N; ++l) store(line + (column + l) * N, row[l]);
      continue;
    }
    for (int l = 0; l < N; ++l) {
      store(line + column * N, row[l]);
      if (++column == width) column = 0, line += pitch;
    }
  }
}

// The other way, from pixels that follow one another.
template <class T, class A>
void write_planes(T* to, const A* from, int64_t total, const Channels& channels) {
  constexpr int64_t N = lanes<A>;
  if (total < N) {
    for (int64_t i = 0; i < total; ++i)
      for (int64_t l = 0; l < channels.count; ++l) to[l * channels.pitch + i] = narrow<T>(from[i * N + l]);
    return;
  }
  for (int64_t next = 0; next < total; next += N) {
    const int64_t i = least(next, total - N);
    vec<A> row[N];
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) row[l] = load(from + (i + l) * N);
    transpose<A>(row);
    T* plane = to + i;
    for (int l = 0; l < channels.count; ++l, plane += channels.pitch) store_as<T, A>(plane, row[l]);
  }
}

// Likewise in NHWC, where pixels are `pixel` elements apart.
template <class T, class A>
void write_pixels(T* to, const A* from, int64_t pixels, int64_t pixel, int64_t count) {
  if (count == lanes<A>) {
    for (int64_t i = 0; i < pixels; ++i, to += pixel, from += lanes<A>) store_as<T, A>(to, load(from));
  } else {
    for (int64_t i = 0; i < pixels; ++i, to += pixel, from += lanes<A>)
      for (int64_t l = 0; l < count; ++l) to[l] = narrow<T>(from[l]);
  }
}

// The extent of a source whose padding is no zeros to leave out.
constexpr int64_t kEverywhere = int64_t(1) << 40;

// What pads a row other than zeros, from its own pixels.
template <class A>
void pad_row(const Interleaved& b, A* row) {
  const auto pad = [&](int64_t pixel) {
    const int64_t source = b.lead + padding_source(b.width.pad_mode, b.width.in, pixel - b.lead);
    store(row + pixel * lanes<A>, load(row + source * lanes<A>));
  };
  for (int64_t pixel = 0; pixel < b.lead; ++pixel) pad(pixel);
  for (int64_t pixel = b.lead + b.width.in; pixel < b.pitch; ++pixel) pad(pixel);
}

// The source rows of band `band`, all vectors of a block whose first channel starts at `plane`. What is left and right
// of the columns must be zero already, if zeros pad.
template <class A, class T>
void read_band(const Interleaved& b, Layout layout, A* scratch, const T* plane, const Strides& strides,
               int64_t channels, int64_t band) {
  const int64_t top = b.top + band * b.phase_rows * b.height.mul;
  const int64_t first = least(most(0, -top), b.rows), last = most(first, least(b.rows, b.height.in - top));
  const int64_t row = b.pitch * lanes<A>, width = least(b.width.in, b.pitch - b.lead);
  const PadMode mode = b.height.pad_mode;
  for (int64_t v = 0; v * lanes<A> < channels; ++v, scratch += b.rows * row) {
    const int64_t count = least(lanes<A>, channels - v * lanes<A>);
    // Rows [begin, end) of the band from those of the source that begin with `source`.
    const auto read = [&](int64_t begin, int64_t end, int64_t source) {
      const T* from = plane + v * lanes<A> * strides.c + source * strides.at[1];
      A* to = scratch + begin * row + b.lead * lanes<A>;
      if (layout == Layout::nhwc) {
        for (int64_t i = begin; i < end; ++i, to += row, from += strides.at[1])
          read_pixels(to, from, width, strides.at[2], count);
      } else if (width == b.width.in) {
        read_planes(to, row, from, end - begin, width, {strides.c, count});
      } else {  // the last columns of the source are nobody's
        for (int64_t i = begin; i < end; ++i, to += row, from += strides.at[1])
          read_planes(to, row, from, 1, width, {strides.c, count});
      }
    };
    read(first, last, top + first);
    if (mode == PadMode::zeros) {
      zero(scratch, first * row);
      zero(scratch + last * row, (b.rows - last) * row);
      continue;
    }
    for (int64_t i = 0; i < b.rows; ++i) {
      if (i < first || i >= last) read(i, i + 1, padding_source(mode, b.height.in, top + i));
      pad_row(b, scratch + i * row);
    }
  }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
