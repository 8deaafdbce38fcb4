// Pooling, one thread a result: forward channels last, backward and its derivative in both layouts. Bandwidth is
// everything: lanes lie along the contiguous axis (channels last: 16-byte vectors of channels), nothing is staged.
//
//   forward    y[o] = max or mean over the taps of window o; max also keeps which tap won (uint8: 1 byte an output
//   where
//              int64 indices are 8). Traffic: x (neighbouring windows share it through L1), y, taps.
//   backward   gx[i] = sum of gy[o] over the windows o that cover i (and whose winner i is), or of gy[o] / count(o): a
//              gather, so no atomics and a fixed order. Traffic: gy and taps (again shared through L1), gx.
//   gather     ggy[o] = ggx[winner of o], the derivative of max's backward. Traffic: taps, ggy, a sector of ggx each.
//
// Threads are laid over *units*, vectors of the tensor they write: unit = (piece, d, h, w, channel vector). A block's
// first unit is found with one 64-bit division, a thread's by multiplications (divisor.h).
#pragma once

#include "kernels/pool_window.h"

namespace fastconv::kernels {

// A thread's unit, in a tensor of extents in[] or out[].
struct PoolUnit {
  int64_t piece;
  int at[3], channel_vector;
  bool on;

  template <bool OverInput>
  FC_DEVICE static PoolUnit of_thread(const PoolParams& p) {
    const int64_t block = int64_t(blockIdx.x) * pool_threads, piece = block / p.units;
    const int within = int(block - piece * p.units) + int(threadIdx.x), more = p.by_units.divide(within);
    PoolUnit unit;
    unit.piece = piece + more;
    unit.on = unit.piece < p.outer;
    int rest = p.by_units.remainder(within, more);
    const int pixel = p.by_channel_vectors.divide(rest);
    unit.channel_vector = p.by_channel_vectors.remainder(rest, pixel);
    rest = pixel;
    FC_UNROLL
    for (int i = 2; i > 0; --i) {
      const Divisor& by = OverInput ? p.axis[i].by_in : p.axis[i].by_out;
      const int quotient = by.divide(rest);
      unit.at[i] = by.remainder(rest, quotient);
      rest = quotient;
    }
    unit.at[0] = rest;
    return unit;
  }
};

// Element offset of position (d, h, w) of a piece, in the input or the output.
template <bool OfInput>
FC_DEVICE int64_t pool_offset(const PoolParams& p, int64_t piece, int d, int h, int w) {
  int64_t o = piece;
  o = o * (OfInput ? p.axis[0].in : p.axis[0].out) + d;
  o = o * (OfInput ? p.axis[1].in : p.axis[1].out) + h;
  o = o * (OfInput ? p.axis[2].in : p.axis[2].out) + w;
  return o * p.channels;
}

template <class T, int V, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_forward(const FC_GRID_CONSTANT PoolParams p) {
  using A = accumulator_t<T>;
  const auto unit = PoolUnit::of_thread<false>(p);
  if (!unit.on) return;
  const int channel = unit.channel_vector * V;
  const TapRange t(p.axis[0], unit.at[0]), r(p.axis[1], unit.at[1]), s(p.axis[2], unit.at[2]);
  WindowResult<A, V, Average> result(first_inside(p, t, r, s));
  const T* src = static_cast<const T*>(p.src) + pool_offset<true>(p, unit.piece, 0, 0, 0) + channel;
  for (int i = t.begin; i < t.end; ++i) {
    for (int j = r.begin; j < r.end; ++j) {
      const int d = t.origin + i * p.axis[0].dilation, h = r.origin + j * p.axis[1].dilation;
      const T* row = src + (int64_t(d) * p.axis[1].in + h) * p.axis[2].in * p.channels;
      const int first_tap = (i * p.axis[1].window + j) * p.axis[2].window;
      WindowResult<A, V, Average> of_row(0);  // rows first, as the kernels that stage do: the same bits
      for (int k = s.begin; k < s.end; ++k) {
        const int64_t w = s.origin + k * p.axis[2].dilation;
        const auto x = load(as<Vec<T, V>>(row + w * p.channels));
        FC_UNROLL
        for (int e = 0; e < V; ++e) (Average ? of_row : result).take(e, A(widen(x[e])), first_tap + k);
      }
      FC_UNROLL
      for (int e = 0; e < V; ++e)
        if (Average) result.take(e, of_row.value[e], 0);
    }
  }
  const int64_t o = pool_offset<false>(p, unit.piece, unit.at[0], unit.at[1], unit.at[2]) + channel;
  store_windows<T, V, Average>(p, result, unit.at, o);
}

// offsets[o .. o + V) equal to `tap`?
template <int V>
FC_DEVICE void compare_taps(bool (&equal)[V], const PoolParams& p, int64_t o, int tap) {
  if (p.wide_offsets) {
    int taps[V];
    load_many<V>(taps, static_cast<const int*>(p.offsets) + o);
    FC_UNROLL
    for (int e = 0; e < V; ++e) equal[e] = taps[e] == tap;
  } else {
    uint8_t taps[V];
    load_many<V>(taps, static_cast<const uint8_t*>(p.offsets) + o);
    FC_UNROLL
    for (int e = 0; e < V; ++e) equal[e] = taps[e] == tap;
  }
}

template <class T, int V, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_backward(const FC_GRID_CONSTANT PoolParams p) {
  using A = accumulator_t<T>;
  const auto unit = PoolUnit::of_thread<true>(p);
  if (!unit.on) return;
  const int channel = unit.channel_vector * V;
  const WindowRange dr(p.axis[0], unit.at[0]), hr(p.axis[1], unit.at[1]), wr(p.axis[2], unit.at[2]);
  A sum[V] = {};
  for (int d = dr.begin; d < dr.end; ++d) {
    const int t = tap_on(p.axis[0], d, unit.at[0]);
    for (int h = hr.begin; h < hr.end; ++h) {
      const int r = tap_on(p.axis[1], h, unit.at[1]);
      if (!Average && (t < 0 || r < 0)) continue;
      for (int w = wr.begin; w < wr.end; ++w) {
        const int64_t o = pool_offset<false>(p, unit.piece, d, h, w) + channel;
        bool on[V];
        A divisor = 1;
        if constexpr (Average) {
          FC_UNROLL
          for (int e = 0; e < V; ++e) on[e] = true;
          if (!p.uniform_divisor) divisor = divisor_of<A>(p, {d, h, w});
        } else {
          const int s = tap_on(p.axis[2], w, unit.at[2]);
          if (s < 0) continue;
          compare_taps<V>(on, p, o, (t * p.axis[1].window + r) * p.axis[2].window + s);
        }
        const auto gy = load(as<Vec<T, V>>(static_cast<const T*>(p.src) + o));
        FC_UNROLL
        for (int e = 0; e < V; ++e) {
          const A value = A(widen(gy[e]));
          if (on[e]) sum[e] += Average && !p.uniform_divisor ? value / divisor : value;
        }
      }
    }
  }
  T out[V];
  FC_UNROLL
  for (int e = 0; e < V; ++e) out[e] = narrow<T>(Average && p.uniform_divisor ? sum[e] / A(p.uniform_divisor) : sum[e]);
  store_many<V>(static_cast<T*>(p.dst) + pool_offset<true>(p, unit.piece, unit.at[0], unit.at[1], unit.at[2]) + channel,
                out);
}

template <class T, int V>
FC_KERNEL(pool_threads, 1)
void pool_gather(const FC_GRID_CONSTANT PoolParams p) {
  const auto unit = PoolUnit::of_thread<false>(p);
  if (!unit.on) return;
  const int channel = unit.channel_vector * V;
  const int64_t o = pool_offset<false>(p, unit.piece, unit.at[0], unit.at[1], unit.at[2]) + channel;
  int taps[V];
  if (p.wide_offsets) {
    load_many<V>(taps, static_cast<const int*>(p.offsets) + o);
  } else {
    uint8_t bytes[V];
    load_many<V>(bytes, static_cast<const uint8_t*>(p.offsets) + o);
    FC_UNROLL
    for (int e = 0; e < V; ++e) taps[e] = bytes[e] == 255 ? no_tap : bytes[e];
  }
  T out[V];
  FC_UNROLL
  for (int e = 0; e < V; ++e) {
    int tap = max(taps[e], 0), place[3];
    FC_UNROLL
    for (int i = 2; i >= 0; --i) {
      const PoolAxis& a = p.axis[i];
      const int rest = a.by_window.divide(tap);
      place[i] = window_origin(a, unit.at[i]) + a.by_window.remainder(tap, rest) * a.dilation;
      tap = rest;
    }
    const T* from = static_cast<const T*>(p.src) + pool_offset<true>(p, unit.piece, place[0], place[1], place[2]);
    out[e] = load_if(taps[e] != no_tap, from + channel + e);
  }
  store_many<V>(static_cast<T*>(p.dst) + o, out);
}

}  // namespace fastconv::kernels
