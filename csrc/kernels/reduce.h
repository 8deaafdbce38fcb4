// Ordered reductions: the second stage of wgrad, and the bias gradient. No atomics: the same order, so the same bits,
// every time.
//
//   reduce_slices   a thread sums one element over the slices, in their order; lanes side by side, so every request is
//                   full. Traffic: slices * elements accumulators read, elements written.
//   bias_sum        gb[k] = sum over (n, p, q) of gy. Each thread sums a fixed subset in order, then the block adds its
//                   threads in a fixed tree; slices of the sum go to different blocks and through reduce_slices.
//                     NCHW   one channel a block: 256 threads side by side along the plane, 16 bytes each if aligned
//                     NHWC   32 channels a block: lanes along the channels, 8 warps take every 8th position
//                   Traffic: gy once.
#pragma once

#include "device/device.h"
#include "kernels/reduce_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

template <class T>
FC_KERNEL(reduce_threads, 1)
void reduce_slices(const FC_GRID_CONSTANT SliceParams p) {
  using A = accumulator_t<T>;
  const A* partial = static_cast<const A*>(p.partial);
  const int64_t step = int64_t(gridDim.x) * reduce_threads;
  for (int64_t i = int64_t(blockIdx.x) * reduce_threads + threadIdx.x; i < p.elements; i += step) {
    A sum = 0;
    for (int s = 0; s < p.slices; ++s) sum += load(partial + s * p.elements + i);
    store(static_cast<T*>(p.out) + i, narrow<T>(sum));
  }
}

// Stores channel k's sum of this slice.
template <class T, class A>
FC_DEVICE void store_bias(const BiasParams& p, bool on, int slice, int64_t k, A sum) {
  if (p.partial) {
    store_if(on, static_cast<A*>(p.out) + slice * p.channels + k, sum);
  } else {
    store_if(on, static_cast<T*>(p.out) + k, narrow<T>(sum));
  }
}

// The slice's vectors of channel k are counted over (sample, vector in the plane).
template <class T, int V>
FC_DEVICE accumulator_t<T> plane_sum(const BiasParams& p, int64_t k, int slice) {
  using A = accumulator_t<T>;
  const int64_t vectors = p.positions / V, total = p.batch * vectors;
  const int64_t begin = slice * p.slice_length, end = min(begin + p.slice_length, total);
  A sums[V] = {};
  int64_t i = begin + threadIdx.x, sample = i / vectors, at = i % vectors;
  for (; i < end; i += reduce_threads, at += reduce_threads) {
    if (at >= vectors) sample += at / vectors, at %= vectors;
    const T* plane = static_cast<const T*>(p.gy) + (sample * p.channels + k) * p.positions;
    const auto value = load(as<Vec<T, V>>(plane + at * V));
    FC_UNROLL
    for (int e = 0; e < V; ++e) sums[e] += A(widen(value[e]));
  }
  A sum = sums[0];
  FC_UNROLL
  for (int e = 1; e < V; ++e) sum += sums[e];
  return sum;
}

template <class T>
FC_KERNEL(reduce_threads, 1)
void bias_sum(const FC_GRID_CONSTANT BiasParams p) {
  using A = accumulator_t<T>;
  constexpr int warps = reduce_threads / 32, vector = 16 / sizeof(T);
  FC_STATIC_SHARED(A, sums, reduce_threads);
  const int slice = int(blockIdx.x % p.slices), lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t block = blockIdx.x / p.slices;
  A sum = 0;
  if (p.channels_last) {
    const int64_t k = block * 32 + lane, total = p.batch * p.positions;
    const int64_t begin = slice * p.slice_length, end = min(begin + p.slice_length, total);
    const T* gy = static_cast<const T*>(p.gy) + k;
    for (int64_t i = begin + warp; i < end; i += warps) sum += A(widen(load_if(k < p.channels, gy + i * p.channels)));
  } else {
    sum = p.vector_loads ? plane_sum<T, vector>(p, block, slice) : plane_sum<T, 1>(p, block, slice);
    sum = warp_sum(sum);
  }
  sums.store(threadIdx.x, sum);
  sync_threads();
  // One sum a warp (NCHW: its lanes hold the same) or a warp and lane (NHWC) is left.
  const bool last = warp == 0 && (p.channels_last || lane == 0);
  if (!last) return;
  sum = 0;
  FC_UNROLL
  for (int w = 0; w < warps; ++w) sum += sums.load(w * 32 + lane);
  const int64_t k = p.channels_last ? block * 32 + lane : block;
  store_bias<T>(p, k < p.channels, slice, k, sum);
}

}  // namespace fastconv::kernels
