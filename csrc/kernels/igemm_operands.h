// The operands of the tensor-core implicit GEMM: how each fills its shared tile, a stage at a time, from tensors that
// are channels last. An operand is made for a block's tile and then walks the depth; what changes from stage to stage
// is a pointer, or a counter that seldom runs out, so that a stage costs little more than its copies.
//
//              left (rows)                                    right (columns)
//   fprop      FilterRows       w[k, (t r s c)]               GatheredRows     x[(n p q), (t r s c)]
//   dgrad      FilterColumns    w[(t r s k), c]               GatheredRows     gy[(n h w), (t r s k)]
//   wgrad      GradientColumns  gy[(n p q), k]                GatheredColumns  x[(n p q), (t r s c)]
// ...Rows are depth-major tiles, ...Columns tile-major ones.
#pragma once

#include "kernels/block.h"
#include "kernels/igemm_launch.h"
#include "kernels/igemm_tile.h"

namespace fastconv::kernels {

// fprop's filter: a row is one output channel's filter, contiguous along the depth.
template <class Copy>
class FilterRows {
  using T = typename Copy::T;

 public:
  FC_DEVICE FilterRows(const GatherParams& p, const GatherBlock& block, int depth) {
    const int row = block.first_row + Copy::row();
    row_ = unsigned(p.filter_row), rows_ = p.rows - row, left_ = depth - Copy::column();
    from_ = static_cast<const T*>(p.filter) + block.group * p.filter_group + int64_t(row) * row_ + Copy::column();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + uint64_t(row_) * unsigned(i * Copy::pass_rows),
                 left_ > 0 && i * Copy::pass_rows < rows_);
    from_ += Copy::Tile::depth, left_ -= Copy::Tile::depth;
  }

 private:
  const T* from_;
  unsigned row_;
  int rows_, left_;
};

// Walks (t, r, s, channel) along the depth. Most stages stay within a tap, where the next address is a constant further
// on; a change of tap adds a jump.
class TapWalk {
 public:
  // `stride[i]`: elements from a tap to the next one on axis i; `channel`: from a channel to the next.
  FC_DEVICE TapWalk(const AxisPhase (&axis)[3], int start, int channels, const int64_t (&stride)[3], int64_t channel)
      : axis_(axis), channels_(channels), left_(channels - start) {
    jump_[2] = stride[2] - channels * channel;
    jump_[1] = stride[1] - axis[2].taps * stride[2];
    jump_[0] = stride[0] - axis[1].taps * stride[1];
  }
  FC_DEVICE int tap(int i) const { return tap_[i]; }
  FC_DEVICE bool within() const { return tap_[0] < axis_[0].taps; }

  // On by `depth` channels; true where that leaves the tap.
  FC_DEVICE bool advance(int depth) {
    left_ -= depth;
    return left_ <= 0;
  }
  // To the tap that the channel belongs to; returns the jump.
  FC_DEVICE int64_t settle() {
    int64_t jump = 0;
    while (left_ <= 0) {
      left_ += channels_, jump += jump_[2];
      if (++tap_[2] < axis_[2].taps) continue;
      tap_[2] = 0, jump += jump_[1];
      if (++tap_[1] < axis_[1].taps) continue;
      tap_[1] = 0, ++tap_[0], jump += jump_[0];
    }
    return jump;
  }

 private:
  const AxisPhase (&axis_)[3];
  int channels_, left_;  // channels of the tap that are still ahead
  int tap_[3] = {};
  int64_t jump_[3];
};

// dgrad's filter: a row is one (tap, output channel), contiguous along the input channels. A thread's passes go down
// the depth, so that one walk serves them all.
template <class Copy>
class FilterColumns {
  using T = typename Copy::T;

 public:
  FC_DEVICE FilterColumns(const GatherParams& p, const GatherBlock& block, int)
      : walk_(block.axis, Copy::row(), p.channels,
              {block.axis[0].filter_step * p.filter_axis[0], block.axis[1].filter_step * p.filter_axis[1],
               block.axis[2].filter_step * p.filter_axis[2]},
              p.filter_channel) {
    const int column = block.first_row + Copy::column();
    on_ = column < p.rows;
    pass_ = Copy::pass_rows * p.filter_channel;
    from_ = static_cast<const T*>(p.filter) + block.group * p.filter_group + column + Copy::row() * p.filter_channel;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) from_ += block.axis[i].filter_first * p.filter_axis[i];
    from_ += walk_.settle();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      Copy::copy(tile, i, from_, on_ && walk_.within());
      from_ += pass_;
      if (walk_.advance(Copy::pass_rows)) from_ += walk_.settle();
    }
  }

 private:
  const T* from_;
  int64_t pass_;
  TapWalk walk_;
  bool on_;
};

// fprop's and dgrad's source: a row is a position's window, gathered; contiguous along the channels of a tap.
template <class Copy>
class GatheredRows {
  using T = typename Copy::T;

 public:
  FC_DEVICE GatheredRows(const GatherParams& p, const GatherBlock& block, const Extents& positions)
      : walk_(block.axis, Copy::column(), p.channels,
              {block.axis[0].tap_step * p.source_strides.axis[0], block.axis[1].tap_step * p.source_strides.axis[1],
               block.axis[2].tap_step * p.source_strides.axis[2]},
              1) {
    const Lattice<1> origins = position_lattice(block.axis, p.source_strides);
    const int64_t base = block.group * p.source_strides.group + Copy::column();
    source_ = static_cast<const char*>(p.source);
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      const Position position = Position::at(block.first_column + Copy::row(i), positions);
      const Spot spot = origins.spot(position);
      row_[i] = (base + spot.offset) * int64_t(sizeof(T));
      columns_[i] = position.within(positions) ? taps_inside(p, block, spot, 2) : 0;
      rows_[i] = taps_inside(p, block, spot, 1) << igemm_depth_taps | taps_inside(p, block, spot, 0);
    }
    next_tap();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) Copy::copy(tile, i, as<T>(source_ + (row_[i] + offset_)), on_[i] != 0);
    offset_ += Copy::Tile::depth * int(sizeof(T));
    if (walk_.advance(Copy::Tile::depth)) next_tap();
  }

 private:
  // A bit for each tap of an axis that lies inside the source.
  FC_DEVICE static uint32_t taps_inside(const GatherParams& p, const GatherBlock& block, const Spot& spot, int axis) {
    uint32_t bits = 0;
    for (int tap = 0; tap < block.axis[axis].taps; ++tap) {
      const bool in = unsigned(spot.at[axis] + tap * block.axis[axis].tap_step) < unsigned(p.axis[axis].source_extent);
      bits |= uint32_t(in) << tap;
    }
    return bits;
  }

  FC_DEVICE void next_tap() {
    offset_ += walk_.settle() * int(sizeof(T));
    const uint32_t within = walk_.within();
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      const uint32_t height = rows_[i] >> (igemm_depth_taps + walk_.tap(1)), depth = rows_[i] >> (walk_.tap(0) & 31);
      on_[i] = columns_[i] >> walk_.tap(2) & height & depth & within;
    }
  }

  const char* source_;
  int64_t row_[Copy::passes], offset_ = 0;  // bytes: where a row's window begins, and where in it the walk is
  uint32_t columns_[Copy::passes], rows_[Copy::passes], on_[Copy::passes];
  TapWalk walk_;
};

// wgrad's output gradient: a row is a position, contiguous along the output channels.
template <class Copy>
class GradientColumns {
  using T = typename Copy::T;

 public:
  FC_DEVICE GradientColumns(const WgradParams& p, int group, int first_row, int64_t start, int length) {
    const int column = first_row + Copy::column();
    on_ = column < p.rows, left_ = length - Copy::row();
    position_ = p.gy_strides.axis[2];  // the tensor is dense: positions follow one another
    from_ = static_cast<const T*>(p.gy) + group * p.gy_strides.group + (start + Copy::row()) * position_ + column;
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + i * Copy::pass_rows * position_, on_ && i * Copy::pass_rows < left_);
    from_ += Copy::Tile::depth * position_, left_ -= Copy::Tile::depth;
  }

 private:
  const T* from_;
  int64_t position_;
  int left_;
  bool on_;
};

// wgrad's source: a row is a position; a column is a channel of a tap, fixed for each thread. Where a position's window
// begins is computed once for the whole block, a stage ahead, in a table in shared memory.
template <class Copy>
class GatheredColumns {
  using T = typename Copy::T;
  static constexpr int depth = Copy::Tile::depth;

 public:
  struct Table {
    Shared<int64_t> offset;  // [2][depth]
    Shared<int> at;          // [2][depth][4]
  };

  FC_DEVICE GatheredColumns(const WgradParams& p, const AxisPhase (&axis)[3], const Extents& positions, int group,
                            int first_column, int64_t start, const Table& table)
      : p_(p), positions_(positions), table_(table), origins_(position_lattice(axis, p.x_strides)) {
    const Position column = Position::at(first_column + Copy::column(), tap_extents<0>(axis, p.channels));
    tap_ = tap_lattice<0>(axis, p.x_strides.axis, 1).spot(column);
    if (first_column + Copy::column() >= p.columns) tap_.move_outside();
    base_ = static_cast<const T*>(p.x) + group * p.x_strides.group + tap_.offset;
    const int thread = int(threadIdx.x);
    mine_ = Position::at(start + (thread < depth ? thread : 0), positions);
    step_ = Position::at(depth, positions);
  }

  // Threads below `depth` write the next stage's positions; a barrier, then fetch reads them.
  FC_DEVICE void tabulate() {
    const int thread = int(threadIdx.x);
    if (thread < depth) {
      Spot spot = origins_.spot(mine_);
      if (!mine_.within(positions_)) spot.move_outside();
      table_.offset.store(half_ * depth + thread, spot.offset);
      table_.at.template store_as<Vec<int, 4>>((half_ * depth + thread) * 4, {spot.at[0], spot.at[1], spot.at[2], 0});
      mine_.advance(step_, positions_);
    }
    half_ ^= 1;
  }

  // Reads the older half of the table. A position past the slice's end meets a zero of the gradient.
  FC_DEVICE void fetch(const SharedBytes& tile) {
    const int extent[3] = {p_.axis[0].source_extent, p_.axis[1].source_extent, p_.axis[2].source_extent};
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      const int entry = read_ * depth + Copy::row(i);
      const auto at = table_.at.template load_as<Vec<int, 4>>(entry * 4);
      const Spot spot{table_.offset.load(entry), {at[0], at[1], at[2]}};
      Copy::copy(tile, i, base_ + spot.offset, spot.inside(tap_, extent));
    }
    read_ ^= 1;
  }

 private:
  const WgradParams& p_;
  const Extents& positions_;
  Table table_;
  Lattice<1> origins_;
  Spot tap_;
  const T* base_;
  Position mine_, step_;
  int half_ = 0, read_ = 0;
};

}  // namespace fastconv::kernels
