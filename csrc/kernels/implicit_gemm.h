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
  const auto fetch = [&](int step) {
    const SharedBytes stage = ring + step % stages * stage_bytes;
    left.fetch(stage), right.fetch(stage + LeftTile::bytes);
  };
  const auto tabulate = [&] {
    if constexpr (has_table<Right>::value) right.tabulate();
  };
  tabulate();
  FC_NO_UNROLL
  for (int step = 0; step < stages - 1; ++step) {
    if constexpr (has_table<Right>::value) sync_threads();
    if (step < steps) fetch(step);
    cp_async_commit();
    tabulate();
  }
  const typename Sums::template LeftFragments<LeftTile> left_part(Tiling::first_row());
  const typename Sums::template RightFragments<RightTile> right_part(Tiling::first_column());
  FC_NO_UNROLL
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<stages - 2>();
    sync_threads();
    if (step + stages - 1 < steps) fetch(step + stages - 1);
    cp_async_commit();
    tabulate();
    const SharedBytes stage = ring + step % stages * stage_bytes;
    sums.multiply(left_part, right_part, stage, stage + LeftTile::bytes);
  }
  cp_async_wait<0>();
  sync_threads();  // the epilogue's scratch lies over the ring
}

// ---- epilogue ----

// A warp's accumulators leave through shared memory, a few lines of the result at a time, so that its lanes store whole
// 16-byte vectors side by side. A *line* is contiguous in the result: a position's channels (fprop, dgrad), or a
// channel's filter (wgrad); a *run* is the warp's part of one.
//
// Eight lanes should read 128 bytes from different banks. So in scratch the second halves of the 16-byte vectors that a
// run will be narrowed to lie behind all first halves; and where four vectors make a run, neighbouring groups of four
// lanes take lines that lie half the banks apart.
template <class Element, bool AlongRows, int Run>
struct LineScratch {
  static constexpr int vector = 16 / int(sizeof(Element)), lines = AlongRows ? 8 : 16;
  static constexpr int halves = vector / 4, second = Run / 2 + 4;
  static constexpr int leading = Run + (AlongRows ? 4 : 8);
  static constexpr int elements = lines * leading;
  static constexpr int line_vectors = Run / vector, apart = AlongRows ? 4 : 2;

  FC_DEVICE static int at(int line, int i) {
    if constexpr (halves == 1) return line * leading + i;
    return line * leading + i / 8 * 4 + i % 8 / 4 * second + i % 4;
  }
  // Of vector q, in the order in which the lanes take them.
  FC_DEVICE static int line(int q) {
    const int line = q / line_vectors;
    if constexpr (line_vectors != 4) return line;
    return line / (2 * apart) * (2 * apart) + line % 2 * apart + line / 2 % apart;
  }
};

// The sums of `group` of lines (a column of mma blocks, or a row of them) into scratch.
template <bool AlongRows, class Scratch, class Sums>
FC_DEVICE void put_lines(const Sums& sums, const Shared<float>& scratch, int group) {
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  FC_UNROLL
  for (int other = 0; other < (AlongRows ? Sums::down : Sums::across); ++other) {
    const auto& sum = AlongRows ? sums.sum[other][group] : sums.sum[group][other];
    FC_UNROLL
    for (int half = 0; half < 2; ++half) {
      if constexpr (AlongRows) {
        FC_UNROLL
        for (int e = 0; e < 2; ++e) scratch.store(Scratch::at(2 * t + e, 16 * other + 8 * half + g), sum[2 * half + e]);
      } else {
        scratch.template store_as<Vec<float, 2>>(Scratch::at(8 * half + g, 8 * other + 2 * t),
                                                 {sum[2 * half], sum[2 * half + 1]});
      }
    }
  }
}

// `offset(line)` in the warp's part: where that line's element 0 of this warp lies, negative for none. `run` elements
// of it exist. bias[i], if any, is added to element i of every line.
template <bool AlongRows, class Element, class Tiling, class Sums, class Offset>
FC_DEVICE void store_lines(const Sums& sums, Element* out, const Element* bias, int run, bool vectors, Offset offset) {
  constexpr int length = AlongRows ? Tiling::warp_rows : Tiling::warp_columns;
  using Scratch = LineScratch<Element, AlongRows, length>;
  constexpr int vector = Scratch::vector, groups = AlongRows ? Sums::across : Sums::down;
  using Elements = Vec<Element, vector>;
  static_assert(32 % Scratch::line_vectors == 0, "a lane keeps its place in the run");
  const int lane = int(threadIdx.x) % 32, first = lane % Scratch::line_vectors * vector;
  const Shared<float> scratch = dynamic_shared<float>() + int(threadIdx.x) / 32 * Scratch::elements;
  const Elements biases = load_if(bias && vectors && first < run, as<Elements>(bias + first));
  FC_UNROLL
  for (int group = 0; group < groups; ++group) {
    put_lines<AlongRows, Scratch>(sums, scratch, group);
    sync_warp();
    if (vectors) {
      FC_UNROLL
      for (int q = lane; q < Scratch::lines * Scratch::line_vectors; q += 32) {
        const int line = Scratch::line(q);
        Elements values;
        FC_UNROLL
        for (int e = 0; e < vector; e += 4) {
          const auto four = scratch.template load_as<Vec<float, 4>>(Scratch::at(line, first + e));
          FC_UNROLL
          for (int i = 0; i < 4; ++i) values[e + i] = narrow<Element>(four[i] + widen(biases[e + i]));
        }
        const int64_t to = offset(group * Scratch::lines + line);
        store_if(to >= 0 && first < run, as<Elements>(out + to + first), values);
      }
    } else {
      FC_NO_UNROLL
      for (int q = lane; q < Scratch::lines * length; q += 32) {
        const int line = q / length, i = q % length;
        const float sum = scratch.load(Scratch::at(line, i)) + widen(load_if(bias && i < run, bias + i));
        const int64_t to = offset(group * Scratch::lines + line);
        store_if(to >= 0 && i < run, out + to + i, narrow<Element>(sum));
      }
    }
    sync_warp();
  }
}

// ---- fprop and dgrad ----

// `Bytes`: of a copy from global to shared memory; the channels of either operand are whole vectors of that.
template <class T_, Math Products, class Tiling_, bool Transposed, int Bytes>
struct IgemmGather {
  using T = T_;
  using Sums = WarpSums<T, Products, Tiling_>;
  using Tiling = Tiling_;
  static constexpr int threads = Tiling::threads;
  static constexpr bool transposed = Transposed;
  using LeftTile = SharedTile<T, Tiling::rows, Transposed ? Major::tile : Major::depth, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::depth, Tiling::depth_bytes>;
  using LeftCopy = TileCopy<LeftTile, threads, Bytes>;
  using Left = std::conditional_t<Transposed, FilterColumns<LeftCopy>, FilterRows<LeftCopy>>;
  using Right = GatheredRows<TileCopy<RightTile, threads, Bytes>>;
};

FC_DEVICE Extents positions_of(const GatherParams& p, const GatherBlock& block) {
  return {{int(p.batch), block.axis[0].positions, block.axis[1].positions, block.axis[2].positions}};
}

template <class Config>
FC_KERNEL(Config::threads, 1)
void igemm_gather(const FC_GRID_CONSTANT GatherParams p) {
  using T = typename Config::T;
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
      typename Config::Right right(p, block, positions);
      constexpr int stage_depth = Config::LeftTile::depth;
      multiply_stages<Config>(sums, left, right, ring, (depth + stage_depth - 1) / stage_depth);
    }
  }
  const GatherBlock block(p, Tiling::rows, Tiling::columns);
  const Extents positions = positions_of(p, block);
  const int first_row = block.first_row + Tiling::first_row();
  const int64_t first_column = block.first_column + Tiling::first_column();
  Lattice<1> lattice;
  lattice.base = block.group * p.out_strides.group + first_row, lattice.stride[0] = p.out_strides.batch;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    lattice.base += block.axis[i].out_first * p.out_strides.axis[i];
    lattice.stride[i + 1] = block.axis[i].out_step * p.out_strides.axis[i];
  }
  const auto offset = [&](int line) {
    const int64_t column = first_column + line;
    if (!Config::transposed)  // dense: positions follow one another
      return column < positions.volume() ? lattice.base + column * p.out_strides.axis[2] : int64_t(-1);
    const Position position = Position::at(column, positions);
    return position.within(positions) ? lattice.offset(position) : int64_t(-1);
  };
  const T* bias = p.bias ? static_cast<const T*>(p.bias) + block.group * p.rows + first_row : nullptr;
  store_lines<true, T, Tiling>(sums, static_cast<T*>(p.out), bias, p.rows - first_row, p.vector_stores, offset);
}

// ---- wgrad ----

template <class T_, Math Products, class Tiling_, int Bytes>
struct IgemmWgrad {
  using T = T_;
  using Sums = WarpSums<T, Products, Tiling_>;
  using Tiling = Tiling_;
  static constexpr int threads = Tiling::threads;
  using LeftTile = SharedTile<T, Tiling::rows, Major::tile, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::tile, Tiling::depth_bytes>;
  using Left = GradientColumns<TileCopy<LeftTile, threads, Bytes>>;
  using Right = GatheredColumns<TileCopy<RightTile, threads, Bytes>>;
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
  FC_STATIC_SHARED(int64_t, table_offset, 2 * depth);
  FC_STATIC_SHARED(int, table_at, 8 * depth);

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
  Left left(p, group, first_row, start, length);
  Right right(p, axis, positions, group, first_column, start, {table_offset, table_at});
  multiply_stages<Config>(sums, left, right, ring, (length + depth - 1) / depth);

  const int row = first_row + Tiling::first_row(), column = first_column + Tiling::first_column();
  const int64_t place = ((int64_t(slice) * p.groups + group) * p.rows + row) * p.columns + column;
  const auto offset = [&](int line) { return row + line < p.rows ? place + int64_t(line) * p.columns : int64_t(-1); };
  if (p.partial) {
    store_lines<false, float, Tiling>(sums, static_cast<float*>(p.out), static_cast<const float*>(nullptr),
                                      p.columns - column, p.vector_stores, offset);
  } else {
    store_lines<false, T, Tiling>(sums, static_cast<T*>(p.out), static_cast<const T*>(nullptr), p.columns - column,
                                  p.vector_stores, offset);
  }
}

}  // namespace fastconv::kernels
