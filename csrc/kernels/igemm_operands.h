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

// A bit for each tap of a window: of the width, and of the height behind the depth. Says which taps lie outside the
// source, or which one is meant: a copy is on where the two do not meet.
struct TapBits {
  uint32_t width, rest;

  static constexpr uint32_t no_tap = 1u << igemm_width_taps;  // outside every window

  FC_DEVICE static TapBits of(int t, int r, int s) { return {1u << s, 1u << t | 1u << (igemm_depth_taps + r)}; }
  FC_DEVICE static TapBits none() { return {no_tap, 0}; }

  // Of a window that begins at the source coordinates `at`.
  template <class Axes>
  FC_DEVICE static TapBits outside(const AxisPhase (&axis)[3], const Axes& p_axis, const int (&at)[3]) {
    const auto bits = [&](int i) {
      uint32_t out = 0;
      FC_NO_UNROLL
      for (int tap = 0; tap < axis[i].taps; ++tap)
        out |= uint32_t(unsigned(at[i] + tap * axis[i].tap_step) >= unsigned(p_axis[i].source_extent)) << tap;
      return out;
    };
    return {bits(2) | no_tap, bits(1) << igemm_depth_taps | bits(0)};
  }

  FC_DEVICE bool meets(const TapBits& tap) const { return ((width & tap.width) | (rest & tap.rest)) != 0; }
};

// A bit for each of a thread's passes whose row is below `rows`, counted from the thread's first row.
template <class Copy>
FC_DEVICE uint32_t passes_below(int rows) {
  uint32_t on = 0;
  FC_UNROLL
  for (int i = 0; i < Copy::passes; ++i) on |= uint32_t(i * Copy::pass_rows < rows) << i;
  return on;
}

// fprop's filter: a row is one output channel's filter, contiguous along the depth. `Counts`: knows by itself where the
// depth ends; else is told so (stop), by an operand whose threads have the same share of the depth.
template <class Copy, bool Counts>
class FilterRows {
  using T = typename Copy::T;

 public:
  FC_DEVICE FilterRows(const GatherParams& p, const GatherBlock& block, int depth)
      : FilterRows(static_cast<const T*>(p.filter) + block.group * p.filter_group, unsigned(p.filter_row),
                   block.first_row, p.rows, depth) {}
  // `filter_row`: from row to row.
  FC_DEVICE FilterRows(const T* filter, unsigned filter_row, int first_row, int rows, int depth) {
    const int row = first_row + Copy::row();
    row_ = filter_row, left_ = depth - Copy::column();
    on_ = left_ > 0 ? passes_below<Copy>(rows - row) : 0;
    from_ = filter + int64_t(row) * row_ + Copy::column();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + uint64_t(row_) * unsigned(i * Copy::pass_rows), on_ & 1u << i);
    from_ += Copy::Tile::depth;
    if constexpr (Counts) {
      left_ -= Copy::Tile::depth;
      if (left_ <= 0) stop();
    }
  }
  FC_DEVICE void stop() { on_ = 0; }

 private:
  const T* from_;
  unsigned row_;
  int left_;
  uint32_t on_;  // a bit a pass
};

// Bytes from a tap to the next one on each axis.
struct TapStrides {
  int64_t axis[3];

  template <class T>
  FC_DEVICE static TapStrides of_filter(const GatherParams& p, const GatherBlock& block) {
    TapStrides s;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) s.axis[i] = block.axis[i].filter_step * p.filter_axis[i] * int(sizeof(T));
    return s;
  }
  template <class T>
  FC_DEVICE static TapStrides of_source(const GatherParams& p, const GatherBlock& block) {
    TapStrides s;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) s.axis[i] = block.axis[i].tap_step * p.source_strides.axis[i] * int(sizeof(T));
    return s;
  }

  // Where the tap with the lowest address lies from the first one: zero or, where strides are negative, less.
  FC_DEVICE int64_t lowest(const AxisPhase (&of)[3]) const {
    int64_t sum = 0;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) sum += min<int64_t>(0, (of[i].taps - 1) * axis[i]);
    return sum;
  }
};

// Walks (t, r, s, channel) along the depth. Most stages stay within a tap, where the next address is a constant further
// on; a change of tap adds a jump. The planner sees to it that 32 bits hold the bytes from one end to the other.
class TapWalk {
 public:
  // Begins at channel `start` of the first tap; `channel`: bytes from a channel to the next.
  FC_DEVICE TapWalk(const AxisPhase (&axis)[3], int start, int channels, const TapStrides& stride, int64_t channel)
      : axis_(axis), length_(uint32_t(channels * channel)) {
    const int64_t first = -stride.lowest(axis);
    at_ = uint32_t(first + start * channel), end_ = uint32_t(first) + length_;
    jump_[2] = uint32_t(stride.axis[2]);
    jump_[1] = uint32_t(stride.axis[1] - axis[2].taps * stride.axis[2]);
    jump_[0] = uint32_t(stride.axis[0] - axis[1].taps * stride.axis[1]);
  }

  FC_DEVICE uint32_t at() const { return at_; }  // bytes from the tap with the lowest address
  FC_DEVICE bool within() const { return tap_[0] < axis_[0].taps; }
  FC_DEVICE TapBits bits() const { return within() ? TapBits::of(tap_[0], tap_[1], tap_[2]) : TapBits::none(); }

  // On by `bytes`; true where that leaves the tap.
  FC_DEVICE bool advance(uint32_t bytes) {
    at_ += bytes;
    return at_ >= end_;
  }
  // To the tap that the channel belongs to.
  FC_DEVICE void settle() {
    while (at_ >= end_ && within()) {
      at_ -= length_, jump(2);
      if (++tap_[2] < axis_[2].taps) continue;
      tap_[2] = 0, jump(1);
      if (++tap_[1] < axis_[1].taps) continue;
      tap_[1] = 0, ++tap_[0], jump(0);
    }
  }

 private:
  FC_DEVICE void jump(int axis) { at_ += jump_[axis], end_ += jump_[axis]; }

  const AxisPhase (&axis_)[3];
  uint32_t at_, end_, length_, jump_[3];  // bytes: the place, the tap's end and length, from tap to tap
  int tap_[3] = {};
};

// dgrad's filter: a row is one (tap, output channel), contiguous along the input channels. A thread's passes go down
// the depth, so that one walk serves them all.
template <class Copy>
class FilterColumns {
  using T = typename Copy::T;

 public:
  FC_DEVICE FilterColumns(const GatherParams& p, const GatherBlock& block, int)
      : walk_(block.axis, Copy::row(), p.channels, TapStrides::of_filter<T>(p, block),
              p.filter_channel * int(sizeof(T))) {
    const int column = block.first_row + Copy::column();
    const T* from = static_cast<const T*>(p.filter) + block.group * p.filter_group + column;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) from += block.axis[i].filter_first * p.filter_axis[i];
    from_ = as<char>(from);
    pass_ = uint32_t(kept(int(uint32_t(p.filter_channel) * uint32_t(Copy::pass_rows * sizeof(T)))));
    inside_ = column < p.rows;
    next_tap();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      Copy::copy(tile, i, as<T>(from_ + walk_.at()), on_);
      if (walk_.advance(pass_)) next_tap();
    }
  }
  FC_DEVICE void stop() {}  // it walks by itself

 private:
  FC_DEVICE void next_tap() {
    walk_.settle();
    on_ = inside_ && walk_.within();
  }

  const char* from_;
  uint32_t pass_, on_;  // bytes from pass to pass
  bool inside_;
  TapWalk walk_;
};

// fprop's and dgrad's source: a row is a position's window, gathered; contiguous along the channels of a tap. Stops the
// left operand where this thread's share of the depth ends.
template <class Copy, class Left>
class GatheredRows {
  using T = typename Copy::T;

 public:
  FC_DEVICE GatheredRows(const GatherParams& p, const GatherBlock& block, const Extents& positions, Left& left)
      : left_(left), walk_(block.axis, Copy::column(), p.channels, TapStrides::of_source<T>(p, block), sizeof(T)) {
    const Lattice<1> origins = position_lattice(block.axis, p.source_strides);
    const char* const source = as<char>(static_cast<const T*>(p.source) + block.group * p.source_strides.group) +
                               TapStrides::of_source<T>(p, block).lowest(block.axis);
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      const Position position = Position::at(block.first_column + Copy::row(i), positions);
      const Spot spot = origins.spot(position);
      window_[i] = source + spot.offset * int(sizeof(T));
      outside_[i] = TapBits::outside(block.axis, p.axis, spot.at);
      if (!position.within(positions)) outside_[i].width = ~0u;
    }
    next_tap();
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) Copy::copy(tile, i, as<T>(window_[i] + walk_.at()), on_ & 1u << i);
    if (walk_.advance(Copy::Tile::depth * sizeof(T))) next_tap();
  }

 private:
  FC_DEVICE void next_tap() {
    walk_.settle();
    const TapBits tap = walk_.bits();
    on_ = 0;
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) on_ |= uint32_t(!outside_[i].meets(tap)) << i;
    if (!walk_.within()) left_.stop();
  }

  Left& left_;
  const char* window_[Copy::passes];  // the tap with the lowest address of each
  TapBits outside_[Copy::passes];
  uint32_t on_;  // a bit a pass
  TapWalk walk_;
};

// wgrad's output gradient: a row is a position, contiguous along the output channels.
template <class Copy>
class GradientColumns {
  using T = typename Copy::T;

 public:
  FC_DEVICE GradientColumns(const WgradParams& p, int group, int first_row, int64_t start, int length) {
    const int column = first_row + Copy::column();
    left_ = column < p.rows ? length - Copy::row() : 0;
    position_ = unsigned(p.gy_strides.axis[2]);  // the tensor is dense: positions follow one another
    from_ = static_cast<const T*>(p.gy) + group * p.gy_strides.group + (start + Copy::row()) * position_ + column;
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + uint64_t(position_) * unsigned(i * Copy::pass_rows), i * Copy::pass_rows < left_);
    from_ += uint64_t(position_) * unsigned(Copy::Tile::depth), left_ -= Copy::Tile::depth;
  }

 private:
  const T* from_;
  unsigned position_;
  int left_;  // positions still ahead; none of a column that is not there
};

// wgrad's source: a row is a position; a column is a channel of a tap, fixed for each thread. Where a position's window
// begins is computed once for the whole block, a stage ahead, in a table in shared memory.
template <class Copy>
class GatheredColumns {
  using T = typename Copy::T;
  static constexpr int depth = Copy::Tile::depth;

 public:
  using Entry = Vec<uint32_t, 4>;  // bytes to the window in two halves, TapBits outside
  using Table = Shared<Entry>;     // [2][depth]

  FC_DEVICE GatheredColumns(const WgradParams& p, const AxisPhase (&axis)[3], const Extents& positions, int group,
                            int first_column, int64_t start, const Table& table)
      : p_(p), axis_(axis), positions_(positions), table_(table), origins_(position_lattice(axis, p.x_strides)) {
    const Position column = Position::at(first_column + Copy::column(), tap_extents<0>(axis, p.channels));
    const bool on = first_column + Copy::column() < p.columns;
    tap_ = on ? TapBits::of(column.digit[0], column.digit[1], column.digit[2]) : TapBits::none();
    tap_from_ = as<char>(static_cast<const T*>(p.x) + group * p.x_strides.group +
                         tap_lattice<0>(axis, p.x_strides.axis, 1).offset(column));
    const int thread = int(threadIdx.x);
    mine_ = Position::at(start + (thread < depth ? thread : 0), positions);
    step_ = Position::at(depth, positions);
  }

  // Threads below `depth` write the next stage's positions; a barrier, then fetch reads them.
  FC_DEVICE void tabulate() {
    const int thread = int(threadIdx.x);
    if (thread < depth) {
      const Spot spot = origins_.spot(mine_);
      TapBits outside = TapBits::outside(axis_, p_.axis, spot.at);
      if (!mine_.within(positions_)) outside.width = ~0u;
      const int64_t bytes = spot.offset * int(sizeof(T));
      table_.store(half_ * depth + thread, {{uint32_t(bytes), uint32_t(bytes >> 32), outside.width, outside.rest}});
      mine_.advance(step_, positions_);
    }
    half_ ^= 1;
  }

  // Reads the older half of the table. A position past the slice's end meets a zero of the gradient.
  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i) {
      const Entry entry = table_.load(read_ * depth + Copy::row(i));
      const int64_t bytes = int64_t(uint64_t(entry[1]) << 32 | entry[0]);
      Copy::copy(tile, i, as<T>(tap_from_ + bytes), !tap_.meets({entry[2], entry[3]}));
    }
    read_ ^= 1;
  }

 private:
  const WgradParams& p_;
  const AxisPhase (&axis_)[3];
  const Extents& positions_;
  Table table_;
  Lattice<1> origins_;
  TapBits tap_;
  const char* tap_from_;
  Position mine_, step_;
  int half_ = 0, read_ = 0;
};

}  // namespace fastconv::kernels
