// dgrad of max-pooling through tiles of gx in scratch (cpu/max_gradient.h).
#include "cpu/max_gradient.h"

#include "cpu/kernels/pool_vectors.h"
#include "cpu/kernels/stream.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Scratch of a scatter: gx and an element more for what is won nowhere, gy if it is converted, places in gx.
template <class A>
struct Tile {
  A *gx, *gy;
  int32_t* places;
};

// `count` elements as they are, or converted into `room`.
template <class A, class T>
inline __attribute__((always_inline)) const A* in_full(A* room, const T* from, int64_t count) {
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    convert_line(room, from, count);
    return room;
  }
}

constexpr int64_t kChunk = 512;  // outputs whose places are worked out together

using Ints = vec<int32_t>;

// From winning taps to pixels after the first one of the window, by vectors of taps in one byte: in a plane.
struct Places {
  Ints reciprocal, column, row;

  // tap / columns by a multiplication, for up to 255 taps; a row further is `row` pixels further.
  explicit Places(const AxisMap (&window)[3]) {
    const int64_t step = window[2].step, taps = window[2].taps;
    reciprocal = Ints{} + int32_t((65535 + taps) / taps);
    column = Ints{} + int32_t(step), row = Ints{} + int32_t(window[1].step * window[2].in - taps * step);
  }
  inline __attribute__((always_inline)) Ints of(Ints tap) const {
    return tap * column + (tap * reciprocal >> 16) * row;
  }
};

bool has_places(const MaxGradient& q) { return q.problem.offset_bytes == 1 && q.problem.forward[0].taps == 1; }

// Where `count` windows were won, in elements of a plane; `nowhere` if they were not.
template <class Offset>
void find_winners(const MaxGradient& q, int32_t* to, const int32_t* origins, const Offset* winners, int64_t count,
                  int32_t nowhere) {
  int64_t i = 0;
  if (has_places(q)) {
    const Places places(q.problem.forward);
    for (; i + lanes<float> <= count; i += lanes<float>) {
      const Ints tap = load_taps<float>(winners + i), found = load(origins + i) + places.of(tap);
      store(to + i, q.every ? found : tap == 255 ? Ints{} + nowhere : found);
    }
  }
  for (; i < count; ++i) to[i] = winners[i] == Offset(-1) ? nowhere : int32_t(origins[i] + q.places[winners[i]]);
}

// Likewise of `count` pixels of kTileChannels, `pitch` elements apart, that have winners.
inline void find_channels(const MaxGradient& q, int32_t* to, const int32_t* origins, const uint8_t* winners,
                          int64_t pitch, int64_t count) {
  const Places places(q.problem.forward);
  Ints lane;
  for (int l = 0; l < lanes<float>; ++l) lane[l] = l;
  for (int64_t i = 0; i < count; ++i, winners += pitch)
#pragma GCC unroll 4
    for (int64_t c = 0; c < kTileChannels; c += lanes<float>, to += lanes<float>)
      store(to, (places.of(load_taps<float>(winners + c)) + origins[i]) * int32_t(kTileChannels) + (lane + int32_t(c)));
}

// One plane, or two in turn.
template <bool Two, class T, class Offset>
void scatter_planes(const MaxGradient& q, int64_t first, const Tile<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  const int64_t outputs = extent(p.forward), plane = extent(p.axis), all = (Two ? 2 : 1) * plane;
  A* tile = m.gx;
  if constexpr (std::is_same_v<T, A>)
    if (q.in_place) tile = static_cast<A*>(p.dst) + first * plane;
  A* const other_tile = tile + plane;
  zero_bytes(tile, all * int64_t(sizeof(A)));
  const T* src = static_cast<const T*>(p.src) + first * outputs;
  const Offset* winners = static_cast<const Offset*>(p.offsets) + first * outputs;
  for (int64_t o = 0; o < outputs; o += kChunk) {
    const int64_t count = least(kChunk, outputs - o);
    const int32_t *place = m.places, *other_place = place + kChunk;
    find_winners(q, m.places, q.origins + o, winners + o, count, int32_t(all));
    if (Two) find_winners(q, m.places + kChunk, q.origins + o, winners + outputs + o, count, int32_t(plane));
    const A *gy = in_full(m.gy, src + o, count), *other = Two ? in_full(m.gy + kChunk, src + outputs + o, count) : gy;
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) {
      tile[place[i]] += gy[i];
      if constexpr (Two) other_tile[other_place[i]] += other[i];
    }
  }
  if (!q.in_place) put_line(static_cast<T*>(p.dst) + first * plane, tile, all, q.stream);
}

// Channels [c, c + channels) of a sample of NHWC; kTileChannels of them, all windows with a winner, if Whole.
template <bool Whole, class T, class Offset>
void scatter_channels(const MaxGradient& q, int64_t n, int64_t c, int64_t channels, const Tile<accumulator_t<T>>& m) {
  using A = accumulator_t<T>;
  constexpr int64_t kPixels = kChunk / kTileChannels;
  const Pooling& p = q.problem;
  const int64_t outputs = extent(p.forward), pixels = extent(p.axis);
  A* const tile = m.gx;
  zero_bytes(tile, channels * pixels * int64_t(sizeof(A)));
  const T* src = static_cast<const T*>(p.src) + n * outputs * p.c + c;
  const Offset* winners = static_cast<const Offset*>(p.offsets) + n * outputs * p.c + c;
  for (int64_t o = 0; o < outputs; ++o, src += p.c, winners += p.c) {
    if constexpr (Whole && sizeof(Offset) == 1) {
      if (o % kPixels == 0) find_channels(q, m.places, q.origins + o, winners, p.c, least(kPixels, outputs - o));
      const int32_t* places = m.places + o % kPixels * kTileChannels;
      const A* gy = in_full(m.gy, src, kTileChannels);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTileChannels; ++i) tile[places[i]] += gy[i];
    } else {
      for (int64_t i = 0; i < channels; ++i)
        if (winners[i] != Offset(-1)) tile[(q.origins[o] + q.places[winners[i]]) * channels + i] += widen(src[i]);
    }
  }
  T* dst = static_cast<T*>(p.dst) + n * pixels * p.c + c;
  for (int64_t i = 0; i < pixels; ++i, dst += p.c) {
    if constexpr (Whole) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < kTileChannels; j += lanes<A>)
        put<T, A>(dst + j, load(tile + i * kTileChannels + j), q.stream);
    } else {
      convert_line(dst, tile + i * channels, channels);
    }
  }
}

// Likewise a few whole kTileChannels, all windows with a winner, where gx lies: its pixels are `p.c` elements apart.
template <class A>
void scatter_in_place(const MaxGradient& q, int64_t n, int64_t c, int64_t channels) {
  const Pooling& p = q.problem;
  const int64_t outputs = extent(p.forward), pixels = extent(p.axis);
  A* const gx = static_cast<A*>(p.dst) + n * pixels * p.c + c;
  if (channels == p.c) {
    zero_bytes(gx, pixels * channels * int64_t(sizeof(A)));
  } else {
    for (int64_t i = 0; i < pixels; ++i) zero_bytes(gx + i * p.c, channels * int64_t(sizeof(A)));
  }
  const A* gy = static_cast<const A*>(p.src) + n * outputs * p.c + c;
  const uint8_t* winners = static_cast<const uint8_t*>(p.offsets) + n * outputs * p.c + c;
  const Places places(p.forward);
  int32_t place[kTileChannels];
  for (int64_t o = 0; o < outputs; ++o, gy += p.c, winners += p.c)
    for (int64_t first = 0; first < channels; first += kTileChannels) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < kTileChannels; i += lanes<float>)
        store(place + i, (places.of(load_taps<float>(winners + first + i)) + q.origins[o]) * int32_t(p.c));
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTileChannels; ++i) gx[place[i] + first + i] += gy[first + i];
    }
}

// A plane of `pixel` channels whose windows do not overlap: what was won is moved, not added.
template <class T, class Offset>
void move_plane(const MaxGradient& q, int64_t plane, int64_t pixel) {
  const Pooling& p = q.problem;
  const int64_t outputs = extent(p.forward), elements = extent(p.axis) * pixel;
  const T* src = static_cast<const T*>(p.src) + plane * outputs * pixel;
  const Offset* winners = static_cast<const Offset*>(p.offsets) + plane * outputs * pixel;
  T* const dst = static_cast<T*>(p.dst) + plane * elements;
  zero_bytes(dst, elements * int64_t(sizeof(T)));
  for (int64_t o = 0; o < outputs; ++o, src += pixel, winners += pixel)
    for (int64_t i = 0; i < pixel; ++i)
      if (winners[i] != Offset(-1)) dst[(q.origins[o] + q.places[winners[i]]) * pixel + i] = src[i];
}

template <class T, class Offset>
void scatter_tiles(const MaxGradient& q, int64_t begin, int64_t end) {
  using A = accumulator_t<T>;
  const Pooling& p = q.problem;
  if (q.sparse) {
    for (int64_t plane = begin; plane < end; ++plane)
      move_plane<T, Offset>(q, plane, p.layout == Layout::nchw ? 1 : p.c);
    return;
  }
  const int64_t elements = (q.group * extent(p.axis) + 1 + 15) / 16 * 16;
  Tile<A> m;
  m.gx = static_cast<A*>(scratch(size_t(elements + 2 * kChunk) * sizeof(A) + 2 * kChunk * sizeof(int32_t)));
  m.gy = m.gx + elements, m.places = reinterpret_cast<int32_t*>(m.gy + 2 * kChunk);
  for (int64_t task = begin; task < end; ++task) {
    if (p.layout == Layout::nchw) {
      const int64_t first = task * q.group;
      q.group == 2 && first + 2 <= q.planes ? scatter_planes<true, T, Offset>(q, first, m)
                                            : scatter_planes<false, T, Offset>(q, first, m);
      continue;
    }
    const int64_t groups = (p.c + q.group - 1) / q.group, c = task % groups * q.group, count = least(q.group, p.c - c);
    if constexpr (std::is_same_v<T, A>)
      if (q.in_place) {
        scatter_in_place<A>(q, task / groups, c, count);
        continue;
      }
    count == kTileChannels&& q.every&& has_places(q)
        ? scatter_channels<true, T, Offset>(q, task / groups, c, count, m)
        : scatter_channels<false, T, Offset>(q, task / groups, c, count, m);
  }
}

}  // namespace

void max_gradient(const void* context, int64_t begin, int64_t end) {
  const auto& q = *static_cast<const MaxGradient*>(context);
  visit_dtype(q.problem.dtype, [&](auto type) {
    using T = decltype(type);
    q.problem.offset_bytes == 1 ? scatter_tiles<T, uint8_t>(q, begin, end) : scatter_tiles<T, int32_t>(q, begin, end);
  });
  if (q.stream) end_stream();
}

}  // namespace fastconv::cpu::FASTCONV_ISA
