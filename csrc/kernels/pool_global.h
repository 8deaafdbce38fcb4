// Global pooling: one window, the whole plane. A result a thread would leave the chip idle, so many threads share one.
//
//   channels last     `lanes` threads side by side read up to 128 bytes of channels, `groups` such rows of threads walk
//   the
//                     pixels g, g + groups, ...
//   channels first    a group's threads walk the plane in 16-byte vectors; an element is a partial result of its own
//
// Then the groups' results are put together pairwise through shared memory, the same way whatever the batch: sums in a
// fixed order; for max the larger, of equals the first, and the last NaN. Traffic: x once.
#pragma once

#include "kernels/pool_window.h"

namespace fastconv::kernels {

// torch's rule for two results of disjoint sets of taps.
template <class A, int V, bool Average>
FC_DEVICE void join(WindowResult<A, V, Average>& a, int e, A value, int tap) {
  if constexpr (Average) {
    a.value[e] += value;
  } else {
    const bool nan = value != value, had_nan = a.value[e] != a.value[e];
    const bool takes =
        nan ? !had_nan || tap > a.tap[e] : !had_nan && (value > a.value[e] || (value == a.value[e] && tap < a.tap[e]));
    if (takes) a.value[e] = value, a.tap[e] = tap;
  }
}

// `Planar`: channels first. `Wide`: V elements move as one, else one by one.
template <class T, bool Planar, bool Wide, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_global(const FC_GRID_CONSTANT GlobalPoolParams p) {
  using A = accumulator_t<T>;
  constexpr int V = pool_vector<T>;
  const Shared<A> values = dynamic_shared<A>(0, V * pool_threads);
  const Shared<int> taps = dynamic_shared<int>(V * pool_threads * int(sizeof(A)), Average ? 0 : V * pool_threads);
  const int thread = int(threadIdx.x), row = p.by_lanes.divide(thread), lane = p.by_lanes.remainder(thread, row);
  const int window = p.by_groups.divide(row), group = p.by_groups.remainder(row, window);
  const int quotient = Planar ? 0 : p.by_chunks.divide(int(blockIdx.x));
  const int64_t piece = Planar ? int64_t(blockIdx.x) * p.windows + window : quotient;
  const int channel = Planar ? 0 : (p.by_chunks.remainder(int(blockIdx.x), quotient) * p.lanes + lane) * V;
  const bool on = window < p.windows && piece < p.pool.outer && channel < p.pool.channels;
  const int64_t step = Planar ? V : p.pool.channels, plane = p.steps * step;
  const T* from = static_cast<const T*>(p.pool.src) + piece * plane + channel;

  WindowResult<A, V, Average> result(0);
  FC_UNROLL
  for (int e = 0; e < V; ++e) result.tap[e] = Planar ? group * V + e : group;
  for (int64_t k = group; on && k < p.steps; k += p.groups) {
    Vec<T, V> x;
    if constexpr (Wide) {
      x = load(as<Vec<T, V>>(from + k * step));
    } else {
      FC_UNROLL
      for (int e = 0; e < V; ++e) x[e] = load(from + k * step + e);
    }
    FC_UNROLL
    for (int e = 0; e < V; ++e) result.take(e, A(widen(x[e])), int(Planar ? k * V + e : k));
  }
  const auto put = [&] {
    FC_UNROLL
    for (int e = 0; e < V; ++e) {
      values.store(e * pool_threads + thread, result.value[e]);
      if constexpr (!Average) taps.store(e * pool_threads + thread, result.tap[e]);
    }
  };
  put();
  for (int half = p.groups / 2; half > 0; half /= 2) {
    sync_threads();
    if (group < half) {
      FC_UNROLL
      for (int e = 0; e < V; ++e) {
        const int other = e * pool_threads + thread + half * p.lanes;
        join<A, V, Average>(result, e, values.load(other), Average ? 0 : taps.load(other));
      }
    }
    if (group < half) put();  // read by groups below half / 2, after the next barrier
  }
  const int at[3] = {0, 0, 0};
  if constexpr (Planar) {
    // The results of a block's windows lie side by side: neighbouring threads write them.
    sync_threads();
    if (group == 0 && on) {
      WindowResult<A, 1, Average> whole(result.tap[0]);
      whole.value[0] = result.value[0];
      FC_UNROLL
      for (int e = 1; e < V; ++e) join<A, 1, Average>(whole, 0, result.value[e], result.tap[e]);
      values.store(window, whole.value[0]);
      if constexpr (!Average) taps.store(window, whole.tap[0]);
    }
    sync_threads();
    const int64_t mine = int64_t(blockIdx.x) * p.windows + thread;
    if (thread < p.windows && mine < p.pool.outer) {
      WindowResult<A, 1, Average> whole(Average ? 0 : taps.load(thread));
      whole.value[0] = values.load(thread);
      store_windows<T, 1, Average>(p.pool, whole, at, mine);
    }
  } else if constexpr (Wide) {
    if (group == 0 && on) store_windows<T, V, Average>(p.pool, result, at, piece * p.pool.channels + channel);
  } else {
    if (group != 0 || !on) return;
    FC_UNROLL
    for (int e = 0; e < V; ++e) {
      WindowResult<A, 1, Average> one(result.tap[e]);
      one.value[0] = result.value[e];
      store_windows<T, 1, Average>(p.pool, one, at, piece * p.pool.channels + channel + e);
    }
  }
}

}  // namespace fastconv::kernels
