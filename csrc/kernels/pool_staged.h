// Pooling forward, channels first. Windows step along the contiguous axis, so lanes that read their own windows from
// global memory would touch every stride-th element, several times. Instead a block stages the input it needs:
//
//    one plane                        a block: `planes` such boxes, whole planes where they are small
//   +--------------------------+
//   |   patch (shared)         |      1. 16-byte vectors of the patch go to shared memory, side by side; windows leave
//   |  +--------------------+  |         out what lies outside the input
//   |  | inputs of the tile |  |      2. a thread a window; lanes along the output's row, stores side by side
//   |  +--------------------+  |
//   +--------------------------+      Traffic: x once (tiles of one plane share their rims), y, taps.
#pragma once

#include "kernels/pool_window.h"

namespace fastconv::kernels {

// A block's place: its first plane and, on each axis, its first output and first patch coordinate.
struct StagedBlock {
  int64_t first_plane;
  int first_out[3], first_in[3];

  FC_DEVICE StagedBlock(const StagedPoolParams& p, int vector) {
    int index = int(blockIdx.x);
    FC_UNROLL
    for (int i = 2; i >= 0; --i) {
      const int quotient = p.by_tiles[i].divide(index);
      first_out[i] = p.by_tiles[i].remainder(index, quotient) * p.tile[i];
      first_in[i] = window_origin(p.pool.axis[i], first_out[i]);
      index = quotient;
    }
    first_in[2] &= -vector;
    first_plane = int64_t(index) * p.planes;
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

template <class T, int V>
FC_DEVICE void stage_patch(const StagedPoolParams& p, const StagedBlock& block, const Shared<T>& patch) {
  const auto& axis = p.pool.axis;
  const int vectors = p.planes * p.patch[0] * p.patch[1] * p.patch_vectors;
  for (int i = int(threadIdx.x); i < vectors; i += pool_threads) {
    int at[3], plane;
    split(i, p.by_patch, at, plane);
    const int d = block.first_in[0] + at[0], h = block.first_in[1] + at[1], w = block.first_in[2] + at[2] * V;
    const bool on = unsigned(d) < unsigned(axis[0].in) && unsigned(h) < unsigned(axis[1].in) &&
                    unsigned(w) < unsigned(axis[2].in) && block.first_plane + plane < p.pool.outer;
    const int64_t from = (((block.first_plane + plane) * axis[0].in + d) * axis[1].in + h) * axis[2].in + w;
    patch.template store_as<Vec<T, V>>(i * V, load_if(on, as<Vec<T, V>>(static_cast<const T*>(p.pool.src) + from)));
  }
}

template <class T, int V, bool Average>
FC_KERNEL(pool_threads, 1)
void pool_staged(const FC_GRID_CONSTANT StagedPoolParams p) {
  using A = accumulator_t<T>;
  const auto& axis = p.pool.axis;
  const Shared<T> patch = dynamic_shared<T>();
  const StagedBlock block(p, pool_vector<T>);
  stage_patch<T, V>(p, block, patch);
  sync_threads();

  const int outputs = p.planes * p.tile[0] * p.tile[1] * p.tile[2];
  const int width = p.patch_vectors * V;
  for (int i = int(threadIdx.x); i < outputs; i += pool_threads) {
    int in_tile[3], plane, at[3];
    split(i, p.by_tile, in_tile, plane);
    bool on = block.first_plane + plane < p.pool.outer;
    FC_UNROLL
    for (int a = 0; a < 3; ++a) {
      at[a] = block.first_out[a] + in_tile[a];
      on = on && at[a] < axis[a].out;
    }
    if (!on) continue;
    const TapRange t(axis[0], at[0]), r(axis[1], at[1]), s(axis[2], at[2]);
    WindowResult<A, 1, Average> result(first_inside(p.pool, t, r, s));
    const int first =
        ((plane * p.patch[0] + t.origin - block.first_in[0]) * p.patch[1] + r.origin - block.first_in[1]) * width +
        s.origin - block.first_in[2];
    for (int a = t.begin; a < t.end; ++a) {
      for (int b = r.begin; b < r.end; ++b) {
        const int row = first + (a * axis[0].dilation * p.patch[1] + b * axis[1].dilation) * width;
        int tap = (a * axis[1].window + b) * axis[2].window + s.begin;
        for (int c = s.begin; c < s.end; ++c, ++tap)
          result.take(0, A(widen(patch.load(row + c * axis[2].dilation))), tap);
      }
    }
    const int64_t o = (((block.first_plane + plane) * axis[0].out + at[0]) * axis[1].out + at[1]) * axis[2].out + at[2];
    store_windows<T, 1, Average>(p.pool, result, at, o);
  }
}

}  // namespace fastconv::kernels
