// Pooling, channels last, of windows that overlap: every element comes from memory once. A block takes up to 128 bytes
// of channels of a stretch of columns and walks down the rows:
//
//      source rows        ring of rows in shared memory              written rows
//      ...                +---------------------------+
//      row s + 1  --->    | row s                     |  --->   row h   (as soon as all that it reads is here)
//      row s + 2  . . .   | row s - 1 ...             |
//                         +---------------------------+
//
//   forward    a batch of rows is copied (cp.async, the next batch while this one is worked on); each row is reduced to
//              the windows' columns, and the ring holds reduced rows: R + S reads a window, not R * S
//   backward   the ring holds rows of gy and of the taps; a thread a vector of gx gathers the windows that cover it
//
// Lanes lie along channels, so no bank is asked twice. Traffic: x, y and taps once, but for the rims of the stretches.
#pragma once

#include "kernels/pool_window.h"

namespace fastconv::kernels {

// A block's place: a slice (of a sample), a vector of channels to begin with and how many, written rows [row, row_end)
// and columns [column, column_end), source rows [begin, end), source columns [source, source_end).
struct MarchBlock {
  int64_t slice;
  int channel, vectors, row, row_end, column, column_end, begin, end, source, source_end;

  // Source coordinates [begin, end) that written ones [first, last] read on one axis.
  template <bool Backward>
  FC_DEVICE static void reach(const PoolAxis& a, int first, int last, int& begin, int& end) {
    if (Backward) {
      begin = WindowRange(a, first).begin, end = WindowRange(a, last).end;
    } else {
      begin = min(max(window_origin(a, first), 0), a.in);
      end = min(a.per > 1 ? adaptive_end(a, last) : window_origin(a, last) + (a.window - 1) * a.dilation + 1, a.in);
    }
    end = max(begin, end);
  }

  template <bool Backward, int V>
  FC_DEVICE static MarchBlock at(const MarchPoolParams& p) {
    MarchBlock b;
    const PoolAxis &height = p.pool.axis[1], &width = p.pool.axis[2];
    int index = int(blockIdx.x), quotient = p.by_chunks.divide(index);
    const int first_vector = p.by_chunks.remainder(index, quotient) * p.vectors;
    b.channel = first_vector * V, b.vectors = min(p.vectors, p.pool.channel_vectors - first_vector);
    index = quotient, quotient = p.by_tiles.divide(index);
    b.column = p.by_tiles.remainder(index, quotient) * p.tile;
    b.column_end = min(b.column + p.tile, Backward ? width.in : width.out);
    index = quotient, quotient = p.by_segments.divide(index);
    b.row = p.by_segments.remainder(index, quotient) * p.rows;
    b.row_end = min(b.row + p.rows, Backward ? height.in : height.out);
    b.slice = quotient;
    reach<Backward>(height, b.row, b.row_end - 1, b.begin, b.end);
    reach<Backward>(width, b.column, b.column_end - 1, b.source, b.source_end);
    return b;
  }

  // One past the last of the written rows from `from` on that need no source row from `loaded` on.
  template <bool Backward>
  FC_DEVICE int ready(const MarchPoolParams& p, int from, int loaded) const {
    const PoolAxis& a = p.pool.axis[1];
    if (loaded >= end) return row_end;
    int h = from;
    while (h < row_end) {
      if (Backward) {
        if (WindowRange(a, h).end > loaded) break;
      } else {
        const TapRange r(a, h);
        if (!r.empty() && r.origin + (r.end - 1) * a.dilation >= loaded) break;
      }
      ++h;
    }
    return h;
  }
};

// index -> (row, pixel, vector) of rows of `by_pixels` pixels.
struct MarchItem {
  int row, pixel, vector;
  FC_DEVICE MarchItem(const MarchPoolParams& p, const Divisor& by_pixels, int index) {
    const int at = p.by_vectors.divide(index);
    vector = p.by_vectors.remainder(index, at);
    row = by_pixels.divide(at);
    pixel = by_pixels.remainder(at, row);
  }
};

FC_DEVICE int ring_slot(const MarchPoolParams& p, int row) { return p.by_slots.remainder(row, p.by_slots.divide(row)); }

// The ring of reduced rows. A vector of accumulators may be two of 16 bytes: those lie in two planes, or lanes would
// meet in the banks.
template <class T, int V, bool Average>
struct ReducedRing {
  using Value = std::conditional_t<Average, accumulator_t<T>, T>;
  static constexpr int chunk = 16 / int(sizeof(Value)), chunks = V / chunk;
  Shared<Value> value;
  Shared<uint8_t> column;
  int items;

  FC_DEVICE ReducedRing(int byte_offset, int count)
      : value(dynamic_shared<Value>(byte_offset, count * V)),
        column(dynamic_shared<uint8_t>(byte_offset + count * V * int(sizeof(Value)), Average ? 0 : count * V)),
        items(count) {}
  FC_HOST_DEVICE static int bytes(int count) { return count * V * int(sizeof(Value) + (Average ? 0 : 1)); }

  template <class A>
  FC_DEVICE void store(int item, const WindowResult<A, V, Average>& result) const {
    FC_UNROLL
    for (int i = 0; i < chunks; ++i) {
      Vec<Value, chunk> part;
      FC_UNROLL
      for (int e = 0; e < chunk; ++e) {
        if constexpr (Average) {
          part[e] = result.value[i * chunk + e];
        } else {
          part[e] = narrow<T>(result.value[i * chunk + e]);
        }
      }
      value.store_as((i * items + item) * chunk, part);
    }
    if constexpr (!Average) {
      Vec<uint8_t, V> columns;
      FC_UNROLL
      for (int e = 0; e < V; ++e) columns[e] = uint8_t(result.tap[e]);
      column.store_as(item * V, columns);
    }
  }
  template <class A>
  FC_DEVICE void take(int item, int first_tap, WindowResult<A, V, Average>& result) const {
    Vec<uint8_t, V> columns{};
    if constexpr (!Average) columns = column.template load_as<Vec<uint8_t, V>>(item * V);
    FC_UNROLL
    for (int i = 0; i < chunks; ++i) {
      const auto part = value.template load_as<Vec<Value, chunk>>((i * items + item) * chunk);
      FC_UNROLL
      for (int e = 0; e < chunk; ++e)
        result.take(i * chunk + e, A(widen(part[e])), first_tap + int(columns[i * chunk + e]));
    }
  }
};

template <class T, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_march(const FC_GRID_CONSTANT MarchPoolParams p) {
  using A = accumulator_t<T>;
  constexpr int V = pool_vector<T>;
  const PoolAxis &height = p.pool.axis[1], &width = p.pool.axis[2];
  const int batch_items = p.batch * p.patch * p.vectors;
  const Shared<T> source = dynamic_shared<T>(0, 2 * batch_items * V);
  const ReducedRing<T, V, Average> ring(2 * batch_items * 16, p.slots * p.tile * p.vectors);
  const MarchBlock b = MarchBlock::at<false, V>(p);
  const T* x = static_cast<const T*>(p.pool.src) + b.slice * height.in * width.in * p.pool.channels + b.channel;

  const auto copy = [&](int first, int buffer) {
    for (int i = int(threadIdx.x); i < batch_items; i += pool_threads) {
      const MarchItem at(p, p.by_patch, i);
      const int h = first + at.row, w = b.source + at.pixel;
      if (h < b.end && w < b.source_end && at.vector < b.vectors)
        cp_async<16>(source.address((buffer * batch_items + i) * V),
                     x + (int64_t(h) * width.in + w) * p.pool.channels + at.vector * V);
    }
    cp_async_commit();
  };

  copy(b.begin, 0);
  int h = b.row, buffer = 0;
  for (int first = b.begin; h < b.row_end; first += p.batch, buffer ^= 1) {
    cp_async_wait<0>();
    sync_threads();  // this batch is here; nobody reads the ring's oldest rows, nor the other batch
    copy(first + p.batch, buffer ^ 1);

    const int rows = min(p.batch, b.end - first);
    for (int i = int(threadIdx.x); i < rows * p.tile * p.vectors; i += pool_threads) {
      const MarchItem at(p, p.by_tile, i);
      if (b.column + at.pixel >= b.column_end || at.vector >= b.vectors) continue;
      const TapRange s(width, b.column + at.pixel);
      WindowResult<A, V, Average> result(s.begin);
      const int from = buffer * batch_items + (at.row * p.patch + s.origin - b.source) * p.vectors + at.vector;
      for (int c = 0; c < width.window; ++c) {  // in step with the other lanes, also at the rims
        const bool on = c >= s.begin && c < s.end;
        const auto v = source.template load_as_if<Vec<T, V>>(on, (from + c * width.dilation * p.vectors) * V);
        FC_UNROLL
        for (int e = 0; e < V; ++e)
          if (on) result.take(e, A(widen(v[e])), c);
      }
      ring.store((ring_slot(p, first + at.row) * p.tile + at.pixel) * p.vectors + at.vector, result);
    }
    sync_threads();

    const int ready = b.template ready<false>(p, h, first + p.batch);
    for (int i = int(threadIdx.x); i < (ready - h) * p.tile * p.vectors; i += pool_threads) {
      const MarchItem item(p, p.by_tile, i);
      const int at[3] = {0, h + item.row, b.column + item.pixel};
      if (at[2] >= b.column_end || item.vector >= b.vectors) continue;
      const TapRange t(p.pool.axis[0], 0), r(height, at[1]), s(width, at[2]);
      WindowResult<A, V, Average> result(first_inside(p.pool, t, r, s));
      for (int row = r.begin; row < r.end && !s.empty(); ++row) {
        const int slot = ring_slot(p, r.origin + row * height.dilation);
        ring.take((slot * p.tile + item.pixel) * p.vectors + item.vector, row * width.window, result);
      }
      const int64_t pixel = (b.slice * height.out + at[1]) * width.out + at[2];
      store_windows<T, V, Average>(p.pool, result, at, pixel * p.pool.channels + b.channel + item.vector * V);
    }
    h = ready;
  }
  cp_async_wait<0>();
}

template <class T, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_march_backward(const FC_GRID_CONSTANT MarchPoolParams p) {
  using A = accumulator_t<T>;
  constexpr int V = pool_vector<T>;
  const PoolAxis &height = p.pool.axis[1], &width = p.pool.axis[2];
  const int row_items = p.patch * p.vectors, items = p.slots * row_items;
  const Shared<T> gy = dynamic_shared<T>(0, items * V);
  const Shared<uint8_t> taps = dynamic_shared<uint8_t>(items * 16, Average ? 0 : items * V);
  const MarchBlock b = MarchBlock::at<true, V>(p);
  const int64_t origin = b.slice * height.out * width.out * p.pool.channels + b.channel;

  const auto copy = [&](int first) {
    for (int i = int(threadIdx.x); i < p.batch * row_items; i += pool_threads) {
      const MarchItem at(p, p.by_patch, i);
      const int h = first + at.row, w = b.source + at.pixel;
      if (h >= b.end || w >= b.source_end || at.vector >= b.vectors) continue;
      const int64_t o = origin + (int64_t(h) * width.out + w) * p.pool.channels + at.vector * V;
      const int to = (ring_slot(p, h) * p.patch + at.pixel) * p.vectors + at.vector;
      cp_async<16>(gy.address(to * V), static_cast<const T*>(p.pool.src) + o);
      if constexpr (!Average) {
        const uint8_t* from = static_cast<const uint8_t*>(p.pool.offsets) + o;
        if constexpr (V >= 4) {
          cp_async<V>(taps.address(to * V), from);
        } else {
          taps.store_as(to * V, load(as<Vec<uint8_t, V>>(from)));
        }
      }
    }
    cp_async_commit();
  };

  copy(b.begin);
  int h = b.row;
  for (int first = b.begin; h < b.row_end; first += p.batch) {
    cp_async_wait<0>();
    sync_threads();  // this batch is here; nobody reads the rows that the next one replaces
    copy(first + p.batch);

    const int ready = b.template ready<true>(p, h, first + p.batch);
    for (int i = int(threadIdx.x); i < (ready - h) * p.tile * p.vectors; i += pool_threads) {
      const MarchItem item(p, p.by_tile, i);
      const int y = h + item.row, x = b.column + item.pixel;
      if (x >= b.column_end || item.vector >= b.vectors) continue;
      const WindowRange rows(height, y), columns(width, x);
      A sum[V] = {};
      for (int o = rows.begin; o < rows.end; ++o) {
        const int r = tap_on(height, o, y);
        if (!Average && r < 0) continue;
        const int row = (ring_slot(p, o) * p.patch - b.source) * p.vectors + item.vector;
        for (int k = 0; k < p.pool.covering[2]; ++k) {  // in step with the other lanes
          const int w = columns.begin + k, s = w < columns.end ? tap_on(width, w, x) : -1;
          const bool on = Average ? w < columns.end : s >= 0;
          const int from = (row + w * p.vectors) * V;
          const auto value = gy.template load_as_if<Vec<T, V>>(on, from);
          if constexpr (Average) {
            if (!on) continue;
            const A divisor = p.pool.uniform_divisor ? A(1) : divisor_of<A>(p.pool, {0, o, w});
            FC_UNROLL
            for (int e = 0; e < V; ++e)
              sum[e] += p.pool.uniform_divisor ? A(widen(value[e])) : A(widen(value[e])) / divisor;
          } else {
            const auto won = taps.template load_as_if<Vec<uint8_t, V>>(on, from);
            FC_UNROLL
            for (int e = 0; e < V; ++e)
              if (on && int(won[e]) == r * width.window + s) sum[e] += A(widen(value[e]));
          }
        }
      }
      T out[V];
      FC_UNROLL
      for (int e = 0; e < V; ++e)
        out[e] = narrow<T>(Average && p.pool.uniform_divisor ? sum[e] / A(p.pool.uniform_divisor) : sum[e]);
      const int64_t pixel = (b.slice * height.in + y) * width.in + x;
      store_many<V>(static_cast<T*>(p.pool.dst) + pixel * p.pool.channels + b.channel + item.vector * V, out);
    }
    h = ready;
  }
  cp_async_wait<0>();
}

}  // namespace fastconv::kernels
