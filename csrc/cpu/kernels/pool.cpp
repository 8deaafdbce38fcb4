// Pooling with the channels in the inner loop: the NHWC path, and (one channel at a time) NCHW of any geometry. For
// each written pixel, the taps that exist are walked in row-major order with an array of running results over the
// channels.
#include "cpu/kernels/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One row of written pixels, all in one sample: `channels` at once (1 in NCHW).
struct Row {
  int64_t n, c, channels, d, h;
};

Row row_at(const Pooling& p, int64_t index) {
  Row row;
  row.h = index % p.axis[1].out, index /= p.axis[1].out;
  row.d = index % p.axis[0].out, index /= p.axis[0].out;
  row.channels = p.layout == Layout::nchw ? 1 : p.c;
  row.c = p.layout == Layout::nchw ? index % p.c : 0;
  row.n = p.layout == Layout::nchw ? index / p.c : index;
  return row;
}

int64_t start(const Strides& strides, const Row& row) { return row.n * strides.n + row.c * strides.c; }
int64_t row_start(const Strides& strides, const Row& row) {
  return start(strides, row) + row.d * strides.at[0] + row.h * strides.at[1];
}

// Calls visit(tap, source) for what output o reads on one axis; a source is what lies on that tap of its window, or the
// window on whose tap o lies.
template <class Visit>
inline __attribute__((always_inline)) void for_axis(const AxisMap& axis, int64_t o, Visit visit) {
  if (axis.adaptive) {
    const AxisMap other = transpose(axis);
    for (int64_t i = axis.begin(o); i < axis.end(o); ++i)
      visit(axis.step > 0 ? i - axis.begin(o) : o - other.begin(i), i);
    return;
  }
  for (int64_t t = 0; t < axis.taps; ++t)
    if (const int64_t i = axis.source(o, t); i >= 0) visit(t, i);
}

// Calls visit(tap, source offset in elements) for every tap of output (d, h, w) that exists.
template <class Visit>
void for_taps(const AxisMap (&axis)[3], const Strides& strides, int64_t d, int64_t h, int64_t w, Visit visit) {
  for_axis(axis[0], d, [&](int64_t t, int64_t id) {
    for_axis(axis[1], h, [&](int64_t r, int64_t ih) {
      for_axis(axis[2], w, [&](int64_t s, int64_t iw) {
        visit((t * axis[1].taps + r) * axis[2].taps + s, id * strides.at[0] + ih * strides.at[1] + iw * strides.at[2]);
      });
    });
  });
}

template <class T>
void max_row(const Pooling& p, const Row& row, accumulator_t<T>* best, int32_t* winner) {
  using A = accumulator_t<T>;
  const T* src = static_cast<const T*>(p.src) + start(p.src_strides, row);
  const int64_t out = row_start(p.dst_strides, row);
  for (int64_t w = 0; w < p.axis[2].out; ++w) {
    bool first = true;
    for (int64_t c = 0; c < row.channels; ++c) best[c] = -A(__builtin_inf()), winner[c] = -1;
    for_taps(p.axis, p.src_strides, row.d, row.h, w, [&](int64_t tap, int64_t at) {
      if (first) {  // even if it is -inf
        for (int64_t c = 0; c < row.channels; ++c) best[c] = widen(src[at + c]), winner[c] = int32_t(tap);
      } else {
        for (int64_t c = 0; c < row.channels; ++c) {
          const A value = widen(src[at + c]);
          const bool take = (value > best[c]) | (value != value);
          best[c] = take ? value : best[c];
          winner[c] = take ? int32_t(tap) : winner[c];
        }
      }
      first = false;
    });
    const int64_t at = out + w * p.dst_strides.at[2];
    for (int64_t c = 0; c < row.channels; ++c) static_cast<T*>(p.dst)[at + c] = narrow<T>(best[c]);
    if (p.offsets && p.offset_bytes == 1)
      for (int64_t c = 0; c < row.channels; ++c) static_cast<uint8_t*>(p.offsets)[at + c] = uint8_t(winner[c]);
    if (p.offsets && p.offset_bytes == 4)
      for (int64_t c = 0; c < row.channels; ++c) static_cast<int32_t*>(p.offsets)[at + c] = winner[c];
    if (p.indices) {
      for (int64_t c = 0; c < row.channels; ++c) {
        const int64_t tap = winner[c], taps = p.axis[1].taps * p.axis[2].taps;
        const int64_t id = p.axis[0].source(row.d, tap / taps);
        const int64_t ih = p.axis[1].source(row.h, tap / p.axis[2].taps % p.axis[1].taps);
        const int64_t iw = p.axis[2].source(w, tap % p.axis[2].taps);
        p.indices[at + c] = tap < 0 ? -1 : (id * p.axis[1].in + ih) * p.axis[2].in + iw;
      }
    }
  }
}

template <class T, class Offset>
void max_dgrad_row(const Pooling& p, const Row& row, accumulator_t<T>* sum) {
  using A = accumulator_t<T>;
  const T* src = static_cast<const T*>(p.src) + start(p.src_strides, row);
  const Offset* offsets = static_cast<const Offset*>(p.offsets) + start(p.src_strides, row);
  for (int64_t w = 0; w < p.axis[2].out; ++w) {
    for (int64_t c = 0; c < row.channels; ++c) sum[c] = 0;
    for_taps(p.axis, p.src_strides, row.d, row.h, w, [&](int64_t tap, int64_t at) {
      for (int64_t c = 0; c < row.channels; ++c) sum[c] += offsets[at + c] == Offset(tap) ? widen(src[at + c]) : A(0);
    });
    T* dst = static_cast<T*>(p.dst) + row_start(p.dst_strides, row) + w * p.dst_strides.at[2];
    for (int64_t c = 0; c < row.channels; ++c) dst[c] = narrow<T>(sum[c]);
  }
}

// Calls visit(element of the small tensor, element of the large one, both from the task's first plane) for every output
// that has a winner. `place` becomes a table of where a window's taps lie: from tap to address by one look-up.
template <class Offset, class Visit>
void for_winners(const Pooling& p, const Strides& small, const Strides& large, int64_t n, int64_t c, int64_t channels,
                 int64_t* place, Visit visit) {
  const AxisMap(&axis)[3] = p.forward;
  int64_t* next = place;
  for (int64_t t = 0; t < axis[0].taps; ++t)
    for (int64_t r = 0; r < axis[1].taps; ++r)
      for (int64_t s = 0; s < axis[2].taps; ++s)
        *next++ = t * axis[0].step * large.at[0] + r * axis[1].step * large.at[1] + s * axis[2].step * large.at[2];
  const Offset* offsets = static_cast<const Offset*>(p.offsets) + n * small.n + c * small.c;
  for (int64_t d = 0; d < axis[0].out; ++d) {
    for (int64_t h = 0; h < axis[1].out; ++h) {
      const int64_t row = d * small.at[0] + h * small.at[1];
      const int64_t origin = axis[0].origin(d) * large.at[0] + axis[1].origin(h) * large.at[1];
      const Offset* taps = offsets + row;
      if (p.layout == Layout::nchw) {
        for (int64_t w = 0; w < axis[2].out; ++w)
          if (taps[w] != Offset(-1)) visit(row + w, origin + axis[2].origin(w) + place[taps[w]]);
        continue;
      }
      for (int64_t w = 0; w < axis[2].out; ++w) {
        const int64_t at = w * small.at[2], first = origin + axis[2].origin(w) * large.at[2];
        for (int64_t i = 0; i < channels; ++i)
          if (taps[at + i] != Offset(-1)) visit(row + at + i, first + i + place[taps[at + i]]);
      }
    }
  }
}

template <class T>
void clear_planes(const Pooling& p, int64_t pixels, T* planes, int64_t channels) {
  const T zero = narrow<T>(accumulator_t<T>(0));
  if (p.layout == Layout::nchw) {
    for (int64_t i = 0; i < pixels; ++i) planes[i] = zero;
  } else {
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t j = 0; j < channels; ++j) planes[i * p.c + j] = zero;
  }
}

// dgrad of max as a scatter, in the order of the outputs: one task owns its planes, so nothing is atomic.
template <class T, class Offset>
void scatter_planes(const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t* place) {
  const T* __restrict src = static_cast<const T*>(p.src) + n * p.src_strides.n + c * p.src_strides.c;
  T* __restrict dst = static_cast<T*>(p.dst) + n * p.dst_strides.n + c * p.dst_strides.c;
  clear_planes(p, p.forward[0].in * p.forward[1].in * p.forward[2].in, dst, channels);
  for_winners<Offset>(p, p.src_strides, p.dst_strides, n, c, channels, place,
                      [&](int64_t from, int64_t to) { dst[to] += src[from]; });
}

template <class T, class Offset>
void gather_planes(const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t* place) {
  const T* __restrict src = static_cast<const T*>(p.src) + n * p.src_strides.n + c * p.src_strides.c;
  T* __restrict dst = static_cast<T*>(p.dst) + n * p.dst_strides.n + c * p.dst_strides.c;
  clear_planes(p, extent(p.forward), dst, channels);  // for windows without a winner
  for_winners<Offset>(p, p.dst_strides, p.src_strides, n, c, channels, place,
                      [&](int64_t to, int64_t from) { dst[to] = src[from]; });
}

// Calls visit(T{}, n, first channel, channels, room for a look-up table) for tasks of one plane (NCHW) or kPlanes
// channels (NHWC).
template <class Visit>
void for_planes(const void* context, int64_t begin, int64_t end, Visit visit) {
  const auto& p = *static_cast<const Pooling*>(context);
  const int64_t each = p.layout == Layout::nchw ? 1 : kPoolChannels, per = (p.c + each - 1) / each;
  auto* place = static_cast<int64_t*>(scratch(size_t(p.forward[0].taps * p.forward[1].taps * p.forward[2].taps) * 8));
  visit_dtype(p.dtype, [&](auto type) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task % per * each;
      visit(type, p, task / per, c, least(each, p.c - c), place);
    }
  });
}

// Calls visit(element of the small tensor, element of the large one) for a task's outputs, in order: unpooling.
template <class Visit>
void for_indices(const Pooling& p, const Strides& small, int64_t n, int64_t c, int64_t channels, Visit visit) {
  const int64_t outputs = extent(p.forward), plane = p.forward[0].in * p.forward[1].in * p.forward[2].in;
  const int64_t pixel = p.layout == Layout::nchw ? 1 : p.c, each = p.layout == Layout::nchw ? 1 : channels;
  const int64_t* indices = p.indices + n * small.n + c * small.c;
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < each; ++i) {
      const int64_t index = indices[o * pixel + i];
      require(index >= 0 && index < plane, "indices: expected places in a plane of ", plane, " elements, got ", index);
      visit(o * pixel + i, index * pixel + i);
    }
  }
}

template <class A>
A divisor(const Pooling& p, int64_t d, int64_t h, int64_t w) {
  if (p.divisor_override) return A(p.divisor_override);
  return A(p.forward[0].covered(d, p.count_include_pad) * p.forward[1].covered(h, p.count_include_pad) *
           p.forward[2].covered(w, p.count_include_pad));
}

template <class T>
void average_row(const Pooling& p, const Row& row, accumulator_t<T>* sum) {
  using A = accumulator_t<T>;
  const T* src = static_cast<const T*>(p.src) + start(p.src_strides, row);
  for (int64_t w = 0; w < p.axis[2].out; ++w) {
    for (int64_t c = 0; c < row.channels; ++c) sum[c] = 0;
    if (p.backward) {
      for_axis(p.axis[0], row.d, [&](int64_t, int64_t id) {
        for_axis(p.axis[1], row.h, [&](int64_t, int64_t ih) {
          for_axis(p.axis[2], w, [&](int64_t, int64_t iw) {
            const A share = divisor<A>(p, id, ih, iw);
            const T* from = src + id * p.src_strides.at[0] + ih * p.src_strides.at[1] + iw * p.src_strides.at[2];
            for (int64_t c = 0; c < row.channels; ++c) sum[c] += widen(from[c]) / share;
          });
        });
      });
    } else {
      for_taps(p.axis, p.src_strides, row.d, row.h, w, [&](int64_t, int64_t at) {
        for (int64_t c = 0; c < row.channels; ++c) sum[c] += widen(src[at + c]);
      });
    }
    const A share = p.backward ? A(1) : divisor<A>(p, row.d, row.h, w);
    T* dst = static_cast<T*>(p.dst) + row_start(p.dst_strides, row) + w * p.dst_strides.at[2];
    for (int64_t c = 0; c < row.channels; ++c) dst[c] = narrow<T>(sum[c] / share);
  }
}

// Calls visit(T{}, row, scratch for one float or double and one int32 a channel) for the rows of a task.
template <class Visit>
void for_rows(const void* context, int64_t begin, int64_t end, Visit visit) {
  const auto& p = *static_cast<const Pooling*>(context);
  void* memory = scratch(size_t(p.layout == Layout::nchw ? 1 : p.c) * (sizeof(double) + sizeof(int32_t)));
  visit_dtype(p.dtype, [&](auto type) {
    for (int64_t index = begin; index < end; ++index) visit(type, p, row_at(p, index), memory);
  });
}

}  // namespace

void max_pool(const void* context, int64_t begin, int64_t end) {
  for_rows(context, begin, end, [](auto type, const Pooling& p, const Row& row, void* memory) {
    auto* best = static_cast<accumulator_t<decltype(type)>*>(memory);
    max_row<decltype(type)>(p, row, best, reinterpret_cast<int32_t*>(best + row.channels));
  });
}

void max_pool_dgrad(const void* context, int64_t begin, int64_t end) {
  for_rows(context, begin, end, [](auto type, const Pooling& p, const Row& row, void* memory) {
    using T = decltype(type);
    auto* sum = static_cast<accumulator_t<T>*>(memory);
    p.offset_bytes == 1 ? max_dgrad_row<T, uint8_t>(p, row, sum) : max_dgrad_row<T, int32_t>(p, row, sum);
  });
}

void max_pool_scatter(const void* context, int64_t begin, int64_t end) {
  for_planes(context, begin, end,
             [](auto type, const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t* place) {
               using T = decltype(type);
               if constexpr (std::is_same_v<T, accumulator_t<T>>)  // 16-bit sums would round at every step
                 p.offset_bytes == 1 ? scatter_planes<T, uint8_t>(p, n, c, channels, place)
                                     : scatter_planes<T, int32_t>(p, n, c, channels, place);
             });
}

void max_pool_gather(const void* context, int64_t begin, int64_t end) {
  for_planes(context, begin, end,
             [](auto type, const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t* place) {
               using T = decltype(type);
               p.offset_bytes == 1 ? gather_planes<T, uint8_t>(p, n, c, channels, place)
                                   : gather_planes<T, int32_t>(p, n, c, channels, place);
             });
}

void max_unpool(const void* context, int64_t begin, int64_t end) {
  for_planes(context, begin, end, [](auto type, const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t*) {
    using T = decltype(type);
    const Strides &small = p.src_strides, &large = p.dst_strides;
    const T* src = static_cast<const T*>(p.src) + n * small.n + c * small.c;
    T* dst = static_cast<T*>(p.dst) + n * large.n + c * large.c;
    clear_planes(p, p.forward[0].in * p.forward[1].in * p.forward[2].in, dst, channels);
    for_indices(p, small, n, c, channels, [&](int64_t from, int64_t to) { dst[to] = src[from]; });
  });
}

void max_unpool_pick(const void* context, int64_t begin, int64_t end) {
  for_planes(context, begin, end, [](auto type, const Pooling& p, int64_t n, int64_t c, int64_t channels, int64_t*) {
    using T = decltype(type);
    const Strides &small = p.dst_strides, &large = p.src_strides;
    const T* src = static_cast<const T*>(p.src) + n * large.n + c * large.c;
    T* dst = static_cast<T*>(p.dst) + n * small.n + c * small.c;
    for_indices(p, small, n, c, channels, [&](int64_t to, int64_t from) { dst[to] = src[from]; });
  });
}

void average_pool(const void* context, int64_t begin, int64_t end) {
  for_rows(context, begin, end, [](auto type, const Pooling& p, const Row& row, void* memory) {
    average_row<decltype(type)>(p, row, static_cast<accumulator_t<decltype(type)>*>(memory));
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
