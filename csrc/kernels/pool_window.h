// A pooling window and what is done with it: the parts that the pooling kernels share.
#pragma once

#include "device/device.h"
#include "kernels/pool_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

// Where the window at `position` begins, on one axis.
FC_DEVICE int window_origin(const PoolAxis& a, int position) { return a.by_per.divide(position * a.stride) - a.pad; }
// And, in adaptive pooling, where it ends.
FC_DEVICE int adaptive_end(const PoolAxis& a, int position) {
  return a.by_per.divide((position + 1) * a.stride + a.per - 1);
}

// Taps [begin, end) of a window that lie inside the input, on one axis; the window's tap 0 is at `origin`.
struct TapRange {
  int origin, begin, end;

  FC_DEVICE TapRange(const PoolAxis& a, int position) : origin(window_origin(a, position)), begin(0), end(a.window) {
    if (a.per > 1) {
      end = adaptive_end(a, position) - origin;
      return;
    }
    if (origin < 0) begin = a.by_dilation.divide(-origin + a.dilation - 1);
    if (origin + (a.window - 1) * a.dilation >= a.in)
      end = origin >= a.in ? 0 : a.by_dilation.divide(a.in - origin + a.dilation - 1);
    end = min(end, a.window);
  }
  FC_DEVICE bool empty() const { return begin >= end; }
};

// Windows [begin, end) that reach input coordinate x on one axis.
struct WindowRange {
  int begin, end;

  FC_DEVICE WindowRange(const PoolAxis& a, int x) {
    if (a.per > 1) {  // the same formula as a window's: x covers the stretch [x, x + 1) * per / stride of windows
      begin = a.by_stride.divide(x * a.per);
      end = a.by_stride.divide((x + 1) * a.per + a.stride - 1);
      return;
    }
    const int last = x + a.pad, first = last - (a.window - 1) * a.dilation;
    begin = first > 0 ? a.by_stride.divide(first + a.stride - 1) : 0;
    end = min(a.by_stride.divide(last) + 1, a.out);
  }
};

// Which tap of the window at `position` lies on coordinate x; -1: none (dilation).
FC_DEVICE int tap_on(const PoolAxis& a, int position, int x) {
  const int distance = x - window_origin(a, position), tap = a.by_dilation.divide(distance);
  return tap * a.dilation == distance ? tap : -1;
}

// The taps a window counts on one axis for an average: those inside the input, or also those on the padding.
FC_DEVICE int counted(const PoolAxis& a, bool include_pad, int position) {
  const int low = window_origin(a, position);
  if (a.per > 1) return adaptive_end(a, position) - low;
  const int high = min(low + a.window, a.in + (include_pad ? a.pad : 0));
  return high - (include_pad ? low : max(low, 0));
}

template <class A>
FC_DEVICE A divisor_of(const PoolParams& p, const int (&at)[3]) {
  if (p.divisor_override != 0) return A(p.divisor_override);
  int64_t count = 1;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) count *= counted(p.axis[i], p.count_include_pad, at[i]);
  return A(count);
}

// The running result of V windows side by side. torch's rules for max: the first of equals wins, a NaN beats everything
// before it; a window with no element but -infinity names its first tap.
template <class A, int V, bool Average>
struct WindowResult {
  A value[V];
  int tap[V];

  FC_DEVICE explicit WindowResult(int first_tap) {
    FC_UNROLL
    for (int e = 0; e < V; ++e) value[e] = Average ? A(0) : -A(INFINITY), tap[e] = first_tap;
  }
  FC_DEVICE void take(int e, A x, int at) {
    if constexpr (Average) {
      value[e] += x;
    } else if (x > value[e] || x != x) {
      value[e] = x, tap[e] = at;
    }
  }
};

constexpr int no_tap = -1;  // stored as 255 or -1

// V elements of E in accesses of at most 16 bytes.
template <int V, class E>
FC_DEVICE void store_many(E* p, const E (&values)[V]) {
  constexpr int chunk = V * int(sizeof(E)) <= 16 ? V : 16 / int(sizeof(E));
  FC_UNROLL
  for (int i = 0; i < V; i += chunk) {
    Vec<E, chunk> part;
    FC_UNROLL
    for (int e = 0; e < chunk; ++e) part[e] = values[i + e];
    store(as<Vec<E, chunk>>(p + i), part);
  }
}
template <int V, class E>
FC_DEVICE void load_many(E (&values)[V], const E* p) {
  constexpr int chunk = V * int(sizeof(E)) <= 16 ? V : 16 / int(sizeof(E));
  FC_UNROLL
  for (int i = 0; i < V; i += chunk) {
    const auto part = load(as<Vec<E, chunk>>(p + i));
    FC_UNROLL
    for (int e = 0; e < chunk; ++e) values[i + e] = part[e];
  }
}

// Writes the windows at output positions `at` whose results start at output element o.
template <class T, int V, bool Average>
FC_DEVICE void store_windows(const PoolParams& p, const WindowResult<accumulator_t<T>, V, Average>& result,
                             const int (&at)[3], int64_t o) {
  using A = accumulator_t<T>;
  T out[V];
  const A divisor = Average ? divisor_of<A>(p, at) : A(1);
  FC_UNROLL
  for (int e = 0; e < V; ++e) out[e] = narrow<T>(Average ? result.value[e] / divisor : result.value[e]);
  store_many<V>(static_cast<T*>(p.dst) + o, out);
  if constexpr (!Average) {
    if (p.offsets && !p.wide_offsets) {
      uint8_t taps[V];
      FC_UNROLL
      for (int e = 0; e < V; ++e) taps[e] = uint8_t(result.tap[e]);
      store_many<V>(static_cast<uint8_t*>(p.offsets) + o, taps);
    } else if (p.offsets) {
      store_many<V>(static_cast<int*>(p.offsets) + o, result.tap);
    }
    if (p.indices) {
      int64_t planar[V];
      FC_UNROLL
      for (int e = 0; e < V; ++e) {
        // No tap inside: torch names the first one that is not before the input.
        int tap = max(result.tap[e], 0), place[3];
        FC_UNROLL
        for (int i = 2; i >= 0; --i) {
          const PoolAxis& a = p.axis[i];
          const int rest = a.by_window.divide(tap);
          const int r = result.tap[e] == no_tap ? TapRange(a, at[i]).begin : a.by_window.remainder(tap, rest);
          place[i] = window_origin(a, at[i]) + r * a.dilation;
          tap = rest;
        }
        planar[e] = (int64_t(place[0]) * p.axis[1].in + place[1]) * p.axis[2].in + place[2];
      }
      store_many<V>(p.indices + o, planar);
    }
  }
}

// The index of the first tap inside, row-major over the window; no_tap if there is none.
FC_DEVICE int first_inside(const PoolParams& p, const TapRange& t, const TapRange& r, const TapRange& s) {
  if (t.empty() || r.empty() || s.empty()) return no_tap;
  return (t.begin * p.axis[1].window + r.begin) * p.axis[2].window + s.begin;
}

}  // namespace fastconv::kernels
