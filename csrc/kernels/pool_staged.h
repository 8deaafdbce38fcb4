// Pooling, channels first, through shared memory. Windows step along the contiguous axis and overlap, so lanes that
// read their own windows from global memory would touch every stride-th element, several times. Instead a block stages
// the box that its windows need, once:
//
//    one plane                        a block: `planes` such boxes, whole planes where they are small
//   +--------------------------+
//   |   patch (shared)         |      What is contiguous in memory is copied as one run of 16-byte vectors, beginning
//   |  +--------------------+  |      and ending at multiples of 16 bytes, whatever the rows' length: whole planes, the
//   |  | inputs of the tile |  |      full rows of a slice, or single rows.
//   |  +--------------------+  |
//   +--------------------------+
//
//   forward    each staged row is reduced to the windows' columns (value, and for max the winning column: one byte),
//   then
//              the reduced rows to windows: R + S reads a window and not R * S. The first maximum of a row, then the
//              first row: torch's row-major rule; and the last NaN of the last row with one.
//   backward   gy and taps are staged; a thread an element of gx gathers the windows that cover it.
//
// Traffic: the read tensors once (tiles of one plane share their rims), the written ones once. Where windows are two
// columns apart, lanes would meet in every second bank: elements 2k and 2k + 1 change places in every second 128 bytes.
#pragma once

#include "kernels/pool_window.h"

namespace fastconv::kernels {

// A block's place: its first plane; on each axis its first written position and, of the read tensor, [begin, end).
struct StagedBlock {
  int64_t first_plane;
  int first[3], begin[3], end[3];

  template <bool Backward>
  FC_DEVICE static StagedBlock at(const StagedPoolParams& p) {
    StagedBlock b;
    int index = int(blockIdx.x);
    FC_UNROLL
    for (int i = 2; i >= 0; --i) {
      const PoolAxis& a = p.pool.axis[i];
      const int quotient = p.by_tiles[i].divide(index);
      b.first[i] = p.by_tiles[i].remainder(index, quotient) * p.tile[i];
      index = quotient;
      const int last = min(b.first[i] + p.tile[i], Backward ? a.in : a.out) - 1;
      if (Backward) {
        b.begin[i] = WindowRange(a, b.first[i]).begin, b.end[i] = WindowRange(a, last).end;
      } else {
        b.begin[i] = min(max(window_origin(a, b.first[i]), 0), a.in);
        b.end[i] =
            min(a.per > 1 ? adaptive_end(a, last) : window_origin(a, last) + (a.window - 1) * a.dilation + 1, a.in);
      }
      b.end[i] = max(b.end[i], b.begin[i]);
    }
    b.first_plane = int64_t(index) * p.planes;
    return b;
  }

  // How far the first written element is from a multiple of 32: by so much the threads step back, that warps write
  // whole sectors.
  FC_DEVICE int lead(const StagedPoolParams& p, const int (&extent)[3]) const {
    if (p.tile[2] != extent[2]) return 0;
    return int((((first_plane * extent[0] + first[0]) * extent[1] + first[1]) * extent[2]) & 31);
  }
};

// index -> (plane of the block, and three coordinates in a box).
FC_DEVICE void split(int index, const Divisor (&by)[3], int (&at)[3], int& plane) {
  FC_UNROLL
  for (int i = 2; i >= 0; --i) {
    const int quotient = by[i].divide(index);
    at[i] = by[i].remainder(index, quotient);
    index = quotient;
  }
  plane = index;
}

// The elements that the block writes, of a tensor of this extent, a thread each: visit(plane of the block, coordinates,
// place in the tensor).
template <class Visit>
FC_DEVICE void visit_results(const StagedPoolParams& p, const StagedBlock& block, const int (&extent)[3],
                             const Visit& visit) {
  const int results = p.planes * p.tile[0] * p.tile[1] * p.tile[2];
  for (int i = int(threadIdx.x) - block.lead(p, extent); i < results; i += pool_threads) {
    int at[3], plane;
    split(max(i, 0), p.by_tile, at, plane);
    bool on = i >= 0 && block.first_plane + plane < p.pool.outer;
    FC_UNROLL
    for (int a = 0; a < 3; ++a) {
      at[a] += block.first[a];
      on = on && at[a] < extent[a];
    }
    if (on)
      visit(plane, at, (((block.first_plane + plane) * extent[0] + at[0]) * extent[1] + at[1]) * extent[2] + at[2]);
  }
}

// A tensor's box in shared memory, run by run.
template <class E>
struct Staged {
  static constexpr int V = 16 / int(sizeof(E)), sector = 2 * V;
  Shared<E> data;
  int pitch;  // of a run: its elements, and room for what lies beside it in its first sector and its last vector

  FC_DEVICE Staged(const StagedPoolParams& p, Shared<E> at) : data(at), pitch(pitch_of(p.run_elements)) {}
  FC_HOST_DEVICE static int pitch_of(int run_elements) { return (run_elements + 3 * V - 2) / V * V; }

  // Element of the tensor that run `run` begins with, and how many it has.
  FC_DEVICE static int64_t run_start(const StagedPoolParams& p, const StagedBlock& b, int run, int& count) {
    const int64_t H = p.source[1], W = p.source[2];
    if (p.runs == StagedPoolParams::planes_at_once) {
      const int64_t volume = p.source[0] * H * W;
      count = int(min(int64_t(p.planes), p.pool.outer - b.first_plane) * volume);
      return b.first_plane * volume;
    }
    int row = 0, slice = run;
    if (p.runs == StagedPoolParams::single_rows) {
      slice = p.by_patch_rows.divide(run);
      row = p.by_patch_rows.remainder(run, slice);
    }
    const int plane = p.by_patch_slices.divide(slice), d = p.by_patch_slices.remainder(slice, plane);
    const bool single = p.runs == StagedPoolParams::single_rows;
    const bool on = b.first_plane + plane < p.pool.outer && b.begin[0] + d < b.end[0] && b.begin[1] + row < b.end[1];
    count = !on ? 0 : single ? b.end[2] - b.begin[2] : (b.end[1] - b.begin[1]) * p.source[2];
    return (((b.first_plane + plane) * p.source[0] + b.begin[0] + d) * H + b.begin[1] + row) * W +
           (single ? b.begin[2] : 0);
  }

  // Index of column 0 of a staged row: plane of the block, slice and row of the tensor.
  FC_DEVICE int row(const StagedPoolParams& p, const StagedBlock& b, int plane, int d, int h) const {
    const int W = p.source[2];
    int run = 0, within, count;
    if (p.runs == StagedPoolParams::planes_at_once) {
      within = ((plane * p.source[0] + d) * p.source[1] + h) * W;
    } else {
      run = plane * p.patch[0] + d - b.begin[0];
      within = (h - b.begin[1]) * W;
      if (p.runs == StagedPoolParams::single_rows) run = run * p.patch[1] + h - b.begin[1], within = -b.begin[2];
    }
    return run * pitch + within + int(run_start(p, b, run, count) & (sector - 1));
  }

  FC_DEVICE static int place(bool swizzle, int index) {
    constexpr int shift = sizeof(E) == 8 ? 4 : 5;
    return swizzle ? index ^ (index >> shift & 1) : index;
  }
  FC_DEVICE E element_if(bool on, bool swizzle, int index) const { return data.load_if(on, place(swizzle, index)); }

  // Everything in; `Wide`: the tensor is aligned to 16 bytes. A sync_threads follows.
  template <bool Wide>
  FC_DEVICE void fill(const StagedPoolParams& p, const StagedBlock& b, const E* tensor, bool swizzle) const {
    const int vectors = pitch / V;
    for (int i = int(threadIdx.x); i < p.run_count * vectors; i += pool_threads) {
      const int run = p.run_count == 1 ? 0 : i / vectors, at = (i - run * vectors) * V;
      int count;
      const int64_t start = run_start(p, b, run, count), from = start - (start & (sector - 1)) + at;
      const bool any = from < start + count, whole = Wide && any && from + V <= p.source_elements;
      Vec<E, V> v = load_if(whole, as<Vec<E, V>>(tensor + from));
      FC_UNROLL
      for (int e = 0; e < V; ++e)
        if (any && !whole) v[e] = load_if(from + e < p.source_elements, tensor + from + e);
      const int to = run * pitch + at;
      if (swizzle && place(true, to) != to) {
        FC_UNROLL
        for (int e = 0; e + 1 < V; e += 2) {
          const E kept = v[e];
          v[e] = v[e + 1], v[e + 1] = kept;
        }
      }
      if (any) data.template store_as<Vec<E, V>>(to, v);
    }
  }
};

// Bytes of shared memory up to a 16-byte boundary.
FC_HOST_DEVICE constexpr int up_to_16(int bytes) { return (bytes + 15) / 16 * 16; }

// Rows reduced along their columns: what the forward kernel keeps between its two steps.
template <class T, bool Average>
struct ReducedRows {
  using Value = std::conditional_t<Average, accumulator_t<T>, T>;
  Shared<Value> value;
  Shared<uint8_t> column;  // the winner's; no_column: the window has none
  static constexpr int no_column = 255;

  FC_DEVICE ReducedRows(int byte_offset, int count)
      : value(dynamic_shared<Value>(byte_offset, count)),
        column(dynamic_shared<uint8_t>(byte_offset + up_to_16(count * int(sizeof(Value))), Average ? 0 : count)) {}
  FC_HOST_DEVICE static int bytes(int count) {
    return up_to_16(count * int(sizeof(Value))) + (Average ? 0 : up_to_16(count));
  }
};

// Where row h (from the block's first) lies among the reduced rows: rows that neighbouring windows read at the same tap
// are neighbours.
FC_DEVICE int reduced_row(const StagedPoolParams& p, int slice, int h) {
  const int quotient = p.by_phases.divide(h);
  return slice * p.slice_pitch + p.by_phases.remainder(h, quotient) * p.phase_pitch + quotient * p.tile[2];
}

template <class T, bool Wide, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_staged(const FC_GRID_CONSTANT StagedPoolParams p) {
  using A = accumulator_t<T>;
  using Rows = ReducedRows<T, Average>;
  const auto& axis = p.pool.axis;
  const int staged_elements = p.run_count * Staged<T>::pitch_of(p.run_elements);
  const Staged<T> patch(p, dynamic_shared<T>(0, staged_elements));
  const int slices = p.planes * p.patch[0], reduced = slices * p.slice_pitch;
  const Rows rows(staged_elements * int(sizeof(T)), reduced);
  const StagedBlock block = StagedBlock::at<false>(p);
  patch.template fill<Wide>(p, block, static_cast<const T*>(p.pool.src), p.swizzle);
  sync_threads();

  for (int i = int(threadIdx.x); i < slices * p.patch[1] * p.lanes_of_row; i += pool_threads) {
    const int row = p.by_lanes.divide(i), q = p.by_lanes.remainder(i, row), slice = p.by_patch_rows.divide(row);
    const int h = p.by_patch_rows.remainder(row, slice), plane = p.by_patch_slices.divide(slice);
    const int d = p.by_patch_slices.remainder(slice, plane);
    if (block.first_plane + plane >= p.pool.outer || block.begin[0] + d >= block.end[0] ||
        block.begin[1] + h >= block.end[1] || q >= p.tile[2] || block.first[2] + q >= axis[2].out)
      continue;
    const TapRange s(axis[2], block.first[2] + q);
    WindowResult<A, 1, Average> result(s.empty() ? Rows::no_column : s.begin);
    const int from = patch.row(p, block, plane, block.begin[0] + d, block.begin[1] + h) + s.origin;
    for (int c = 0; c < axis[2].window; ++c) {  // in step with the other lanes, also at the rims
      const bool on = c >= s.begin && c < s.end;
      const T x = patch.element_if(on, p.swizzle, from + c * axis[2].dilation);
      if (on) result.take(0, A(widen(x)), c);
    }
    const int to = reduced_row(p, slice, h) + q;
    if constexpr (Average) {
      rows.value.store(to, result.value[0]);
    } else {
      rows.value.store(to, narrow<T>(result.value[0]));
      rows.column.store(to, uint8_t(result.tap[0]));
    }
  }
  sync_threads();

  const auto reduce = [&](int plane, const int (&at)[3], int64_t o) {
    const TapRange t(axis[0], at[0]), r(axis[1], at[1]), s(axis[2], at[2]);
    WindowResult<A, 1, Average> result(first_inside(p.pool, t, r, s));
    for (int a = t.begin; a < t.end && !s.empty(); ++a) {
      const int slice = plane * p.patch[0] + t.origin + a * axis[0].dilation - block.begin[0];
      for (int b = 0; b < axis[1].window; ++b) {
        const bool inside = b >= r.begin && b < r.end;
        const int row = reduced_row(p, slice, inside ? r.origin + b * axis[1].dilation - block.begin[1] : 0);
        const int from = row + at[2] - block.first[2];
        const int column = Average ? 0 : rows.column.load_if(inside, from);
        const A value = A(widen(rows.value.load_if(inside, from)));
        if (inside) result.take(0, value, (a * axis[1].window + b) * axis[2].window + column);
      }
    }
    store_windows<T, 1, Average>(p.pool, result, at, o);
  };
  visit_results(p, block, {axis[0].out, axis[1].out, axis[2].out}, reduce);
}

// What a thread of the backward kernel adds up: gy over the windows that cover `at`, the tensors staged.
template <class T, class Tap, bool Average>
FC_DEVICE accumulator_t<T> gather_windows(const StagedPoolParams& p, const StagedBlock& block, const Staged<T>& gy,
                                          const Staged<Tap>& taps, int plane, const int (&at)[3]) {
  using A = accumulator_t<T>;
  const auto& axis = p.pool.axis;
  const WindowRange dr(axis[0], at[0]), hr(axis[1], at[1]), wr(axis[2], at[2]);
  A sum = 0;
  for (int d = dr.begin; d < dr.end; ++d) {
    const int t = tap_on(axis[0], d, at[0]);
    for (int j = 0; j < p.pool.covering[1]; ++j) {  // in step with the other lanes
      const int h = hr.begin + j, r = h < hr.end ? tap_on(axis[1], h, at[1]) : -1;
      const bool row_on = Average ? h < hr.end : t >= 0 && r >= 0;
      const int row = gy.row(p, block, plane, d, row_on ? h : hr.begin);
      const int tap_row = Average ? 0 : taps.row(p, block, plane, d, row_on ? h : hr.begin);
      for (int k = 0; k < p.pool.covering[2]; ++k) {
        const int w = wr.begin + k, s = row_on && w < wr.end ? tap_on(axis[2], w, at[2]) : -1;
        const bool on = Average ? row_on && w < wr.end : s >= 0;
        const A value = A(widen(gy.data.load_if(on, row + w)));
        if constexpr (Average) {
          if (on) sum += p.pool.uniform_divisor ? value : value / divisor_of<A>(p.pool, {d, h, w});
        } else {
          const int tap = int(taps.data.load_if(on, tap_row + w));
          if (on && tap == (t * axis[1].window + r) * axis[2].window + s) sum += value;
        }
      }
    }
  }
  return Average && p.pool.uniform_divisor ? sum / A(p.pool.uniform_divisor) : sum;
}

template <class T, class Tap, bool Wide, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_staged_backward(const FC_GRID_CONSTANT StagedPoolParams p) {
  const auto& axis = p.pool.axis;
  const StagedBlock block = StagedBlock::at<true>(p);
  const int gy_elements = p.run_count * Staged<T>::pitch_of(p.run_elements);
  const int tap_elements = Average ? 0 : p.run_count * Staged<Tap>::pitch_of(p.run_elements);
  const Staged<T> gy(p, dynamic_shared<T>(0, gy_elements));
  const Staged<Tap> taps(p, dynamic_shared<Tap>(gy_elements * int(sizeof(T)), tap_elements));
  gy.template fill<Wide>(p, block, static_cast<const T*>(p.pool.src), false);
  if constexpr (!Average) taps.template fill<Wide>(p, block, static_cast<const Tap*>(p.pool.offsets), false);
  sync_threads();

  const auto gather = [&](int plane, const int (&at)[3], int64_t o) {
    const auto sum = gather_windows<T, Tap, Average>(p, block, gy, taps, plane, at);
    store(static_cast<T*>(p.pool.dst) + o, narrow<T>(sum));
  };
  visit_results(p, block, {axis[0].in, axis[1].in, axis[2].in}, gather);
}

}  // namespace fastconv::kernels
