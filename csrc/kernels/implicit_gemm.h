// Implicit GEMM on tensor cores (sm_80: mma.sync, ldmatrix, cp.async), channels last. The three passes are one
// pipeline; they differ in the operands that fill its tiles (igemm_operands.h) and in where the result goes.
//
//   fprop   y[k, (n p q)]    = sum over (t r s c)  w[k, (t r s c)]   x[(t r s c), (n p q)]
//   dgrad   gx[c, (n h w)]   = sum over (t r s k)  w[(t r s k), c]   gy[(t r s k), (n h w)]     one stride phase at a
//   time wgrad   gw[k, (t r s c)] = sum over (n p q)    gy[k, (n p q)]    x[(n p q), (t r s c)]      in slices of the
//   sum
//
//      stage s+3   s+2   s+1    s         Shared memory is a ring of stages, each 64 bytes of the depth for the whole
//     +------+------+------+------+       block tile. While the warps multiply stage s, the copies of the next stages
//     | copy | copy | copy | mma  |       are under way (cp.async: global to shared memory past the registers). One
//     +------+------+------+------+       barrier a stage: it shows the copies that arrived to all, and says that the
//                                         slot of stage s-1, to be filled next, has been read by all.
// A block of BM x BN and depth D: 2 BM BN D FLOP from (BM + BN) D elements; 128 x 128 in 16 bits is 64 FLOP a byte. The
// order of a sum is that of the depth, whatever the batch and the tile's place; float32 accumulators.
#pragma once

#include "kernels/igemm_epilogue.h"
#include "kernels/igemm_operands.h"

namespace fastconv::kernels {

// ---- main loop ----

// `tabulate` and a table only for wgrad: see GatheredColumns.
template <class Operand, class = void>
struct has_table : std::false_type {};
template <class Operand>
struct has_table<Operand, std::void_t<typename Operand::Table>> : std::true_type {};

template <class Config, class Sums, class Left, class Right>
FC_DEVICE void multiply_stages(Sums& sums, Left& left, Right& right, const SharedBytes& ring, int steps) {
  using Tiling = typename Config::Tiling;
  using LeftTile = typename Config::LeftTile;
  using RightTile = typename Config::RightTile;
  constexpr int stages = Tiling::stages, stage_bytes = LeftTile::bytes + RightTile::bytes;
  int slot = 0;  // of the ring, in bytes
  const auto fetch = [&](bool on) {
    const SharedBytes stage = ring + slot;
    if (on) left.fetch(stage), right.fetch(stage + LeftTile::bytes);
    cp_async_commit();
    slot = slot == (stages - 1) * stage_bytes ? 0 : slot + stage_bytes;
  };
  const auto tabulate = [&] {
    if constexpr (has_table<Right>::value) right.tabulate();
  };
  tabulate();
  FC_NO_UNROLL
  for (int step = 0; step < stages - 1; ++step) {
    if constexpr (has_table<Right>::value) sync_threads();
    fetch(step < steps);
    tabulate();
  }
  const typename Sums::template LeftFragments<LeftTile> left_part(Tiling::first_row());
  const typename Sums::template RightFragments<RightTile> right_part(Tiling::first_column());
  FC_NO_UNROLL
  for (int left_over = steps; left_over > 0; --left_over) {
    cp_async_wait<stages - 2>();
    sync_threads();
    fetch(left_over >= stages);
    tabulate();
    const SharedBytes stage = ring + slot;  // the slot to be filled next is the one that was filled first
    sums.multiply(left_part, right_part, stage, stage + LeftTile::bytes);
  }
  cp_async_wait<0>();
  sync_threads();  // the epilogue's scratch lies over the ring
}

// ---- fprop and dgrad ----

// `Bytes`: of a copy from global to shared memory; the channels of either operand are whole vectors of that.
template <class T, Math Products, class Tiling, bool Transposed, int Bytes>
struct IgemmGather : IgemmConfig<T, Products, Tiling> {
  static constexpr bool transposed = Transposed;
  using LeftTile = SharedTile<T, Tiling::rows, Transposed ? Major::tile : Major::depth, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::depth, Tiling::depth_bytes>;
  using LeftCopy = TileCopy<LeftTile, Tiling::threads, Bytes>;
  using Left = std::conditional_t<Transposed, FilterColumns<LeftCopy>, FilterRows<LeftCopy, false>>;
  using Right = GatheredRows<TileCopy<RightTile, Tiling::threads, Bytes>, Left>;
};

FC_DEVICE Extents positions_of(const GatherParams& p, const GatherBlock& block) {
  return {{int(p.batch), block.axis[0].positions, block.axis[1].positions, block.axis[2].positions}};
}

// The block's results to y or gx, in whole vectors along the channels (NHWC) or along the plane (NCHW).
template <class Config, class Sums>
FC_DEVICE void store_tile(const Sums& sums, const GatherParams& p) {
  using T = typename Config::T;
  using Tiling = typename Config::Tiling;
  const GatherBlock block(p, Tiling::rows, Tiling::columns);
  const Extents positions = positions_of(p, block);
  const int first_row = block.first_row + Tiling::first_row();
  const int64_t first_column = block.first_column + Tiling::first_column();
  Lattice<1> lattice;
  lattice.base = block.group * p.out_strides.group + first_row * p.out_strides.channel;
  lattice.stride[0] = p.out_strides.batch;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    lattice.base += block.axis[i].out_first * p.out_strides.axis[i];
    lattice.stride[i + 1] = block.axis[i].out_step * p.out_strides.axis[i];
  }
  const auto row_offset = [&](int row) { return row < p.rows - first_row ? row * p.out_strides.channel : int64_t(-1); };
  const auto column_offset = [&](int i) {
    const Position position = Position::at(first_column + i, positions);
    return position.within(positions) ? lattice.offset(position) : int64_t(-1);
  };
  T* const out = static_cast<T*>(p.out);
  const Epilogue<T> epilogue(p, block.group * p.rows + first_row);
  if (p.out_strides.channel != 1) {
    store_lines<false, T, Tiling>(sums, out, epilogue, p.vector_stores, row_offset, column_offset);
  } else if (Config::transposed) {
    store_lines<true, T, Tiling>(sums, out, epilogue, p.vector_stores, row_offset, column_offset);
  } else {  // dense: positions follow one another
    const auto dense_offset = [&](int i) {
      const int64_t column = first_column + i;
      return column < positions.volume() ? lattice.base + column * p.out_strides.axis[2] : int64_t(-1);
    };
    store_lines<true, T, Tiling>(sums, out, epilogue, p.vector_stores, row_offset, dense_offset);
  }
}

template <class Config>
FC_KERNEL(Config::threads, 1)
void igemm_gather(const FC_GRID_CONSTANT GatherParams p) {
  using Tiling = typename Config::Tiling;
  const SharedBytes ring = dynamic_shared<unsigned char>();
  typename Config::Sums sums;
  {
    const GatherBlock block(p, Tiling::rows, Tiling::columns);
    const Extents positions = positions_of(p, block);
    if (block.first_column >= positions.volume()) return;  // a phase shorter than the longest: the whole block leaves
    const int depth = p.channels * block.axis[0].taps * block.axis[1].taps * block.axis[2].taps;
    if (depth > 0) {
      typename Config::Left left(p, block, depth);
      typename Config::Right right(p, block, positions, left);
      constexpr int stage_depth = Config::LeftTile::depth;
      multiply_stages<Config>(sums, left, right, ring, (depth + stage_depth - 1) / stage_depth);
    }
  }
  store_tile<Config>(sums, p);
}

// ---- wgrad ----

template <class T, Math Products, class Tiling, int Bytes>
struct IgemmWgrad : IgemmConfig<T, Products, Tiling> {
  using LeftTile = SharedTile<T, Tiling::rows, Major::tile, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::tile, Tiling::depth_bytes>;
  using Left = GradientColumns<TileCopy<LeftTile, Tiling::threads, Bytes>>;
  using Right = GatheredColumns<TileCopy<RightTile, Tiling::threads, Bytes>>;
};

template <class Config>
FC_KERNEL(Config::threads, 1)
void igemm_wgrad(const FC_GRID_CONSTANT WgradParams p) {
  using T = typename Config::T;
  using Tiling = typename Config::Tiling;
  using Left = typename Config::Left;
  using Right = typename Config::Right;
  constexpr int depth = Config::LeftTile::depth;
  const SharedBytes ring = dynamic_shared<unsigned char>();

  int index = int(blockIdx.x);
  const int first_row = index % p.row_tiles * Tiling::rows;
  index /= p.row_tiles;
  const int first_column = index % p.column_tiles * Tiling::columns;
  index /= p.column_tiles;
  const int group = index % p.groups, slice = index / p.groups;

  const AxisPhase axis[3] = {AxisPhase::fprop(p.axis[0]), AxisPhase::fprop(p.axis[1]), AxisPhase::fprop(p.axis[2])};
  const Extents positions{{int(p.batch), axis[0].positions, axis[1].positions, axis[2].positions}};
  const int64_t start = slice * p.slice_length, rest = positions.volume() - start;
  const int length = int(rest < p.slice_length ? rest : p.slice_length);
  typename Config::Sums sums;
  const int steps = (length + depth - 1) / depth;
  if constexpr (has_table<Right>::value) {
    FC_STATIC_SHARED(typename Right::Entry, table, 2 * depth);
    Left left(p, group, first_row, start, length);
    Right right(p, axis, positions, group, first_column, start, table);
    multiply_stages<Config>(sums, left, right, ring, steps);
  } else {
    const int plane = axis[0].positions * axis[1].positions * axis[2].positions;
    Left left(p.gy, p.gy_strides, plane, group, first_row, p.rows, start, length);
    Right right(p.x, p.x_strides, plane, group, first_column, p.columns, start, length);
    multiply_stages<Config>(sums, left, right, ring, steps);
  }

  const int row = first_row + Tiling::first_row(), column = first_column + Tiling::first_column();
  const int64_t place = ((int64_t(slice) * p.groups + group) * p.rows + row) * p.columns + column;
  const auto row_offset = [&](int i) { return row + i < p.rows ? place + int64_t(i) * p.columns : int64_t(-1); };
  const auto column_offset = [&](int i) { return column + i < p.columns ? int64_t(i) : int64_t(-1); };
  if (p.partial) {
    store_lines<false, float, Tiling>(sums, static_cast<float*>(p.out), Epilogue<float>(), p.vector_stores, row_offset,
                                      column_offset);
  } else {
    store_lines<false, T, Tiling>(sums, static_cast<T*>(p.out), Epilogue<T>(), p.vector_stores, row_offset,
                                  column_offset);
  }
}

}  // namespace fastconv::kernels
