// The operands of a pointwise convolution (1x1, stride 1) as they lie in channels first: a channel's positions are
// contiguous, so that they are a tile's columns in fprop and dgrad and its depth in wgrad. Nothing is gathered.
//
//              left (rows)                          right (columns)
//   fprop      FilterRows     w[k, c]               PlaneColumns  x[c, (n p q)]
//   dgrad      FilterColumns  w[k, c]               PlaneColumns  gy[k, (n p q)]
//   wgrad      PlaneRows      gy[k, (n p q)]        PlaneRows     x[c, (n p q)]
// A copy never leaves its sample: planes are whole copies.
#pragma once

#include "kernels/igemm_operands.h"

namespace fastconv::kernels {

// fprop's and dgrad's source: a row is a channel, contiguous along the positions of a sample.
template <class Copy, class Left>
class PlaneColumns {
  using T = typename Copy::T;

 public:
  FC_DEVICE PlaneColumns(const GatherParams& p, const GatherBlock& block, const Extents& positions, const Left&) {
    const Position position = Position::at(block.first_column + Copy::column(), positions);
    left_ = position.within(positions) ? p.channels - Copy::row() : 0;
    channel_ = unsigned(p.source_strides.channel);
    from_ = static_cast<const T*>(p.source) + block.group * p.source_strides.group + int64_t(Copy::row()) * channel_ +
            position_lattice(block.axis, p.source_strides).offset(position);
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + uint64_t(channel_) * unsigned(i * Copy::pass_rows), i * Copy::pass_rows < left_);
    from_ += uint64_t(channel_) * unsigned(Copy::Tile::depth), left_ -= Copy::Tile::depth;
  }

 private:
  const T* from_;
  unsigned channel_;
  int left_;  // channels still ahead; none of a position that is not there
};

// wgrad's operands: a row is a channel, contiguous along the positions of a sample; the depth walks the samples.
template <class Copy>
class PlaneRows {
  using T = typename Copy::T;

 public:
  // `rows` of the tensor's channels in the group; positions from `start`, `length` of them.
  FC_DEVICE PlaneRows(const void* tensor, const Strides& strides, int plane, int group, int first_row, int rows,
                      int64_t start, int length)
      : plane_(plane), rows_(rows - first_row - Copy::row()), left_(length - Copy::column()) {
    const int64_t position = start + Copy::column(), sample = position / plane;
    at_ = int(position - sample * plane);
    jump_ = strides.batch - plane, channel_ = unsigned(strides.channel);
    from_ = static_cast<const T*>(tensor) + group * strides.group + int64_t(first_row + Copy::row()) * channel_ +
            sample * strides.batch + at_;
  }

  FC_DEVICE void fetch(const SharedBytes& tile) {
    FC_UNROLL
    for (int i = 0; i < Copy::passes; ++i)
      Copy::copy(tile, i, from_ + uint64_t(channel_) * unsigned(i * Copy::pass_rows),
                 left_ > 0 && i * Copy::pass_rows < rows_);
    from_ += Copy::Tile::depth, at_ += Copy::Tile::depth, left_ -= Copy::Tile::depth;
    while (at_ >= plane_) at_ -= plane_, from_ += jump_;
  }

 private:
  const T* from_;
  int64_t jump_;
  unsigned channel_;
  int plane_, at_, rows_, left_;
};

// fprop and dgrad. `Bytes`: of a copy of the planes: of four elements (14 x 14 planes of 16-bit types have no more),
// with the filter in 16-byte copies; or of one element, in the filter, too.
template <class T, Math Products, class Tiling, bool Transposed, int Bytes>
struct IgemmPlanes : IgemmConfig<T, Products, Tiling> {
  static constexpr bool transposed = Transposed;
  using LeftTile = SharedTile<T, Tiling::rows, Transposed ? Major::tile : Major::depth, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::tile, Tiling::depth_bytes>;
  using LeftCopy = TileCopy<LeftTile, Tiling::threads, Bytes == int(sizeof(T)) ? Bytes : 16>;
  using Left = std::conditional_t<Transposed, FilterColumns<LeftCopy>, FilterRows<LeftCopy, true>>;
  using Right = PlaneColumns<TileCopy<RightTile, Tiling::threads, Bytes>, Left>;
};

template <class T, Math Products, class Tiling, int Bytes>
struct IgemmPlanesWgrad : IgemmConfig<T, Products, Tiling> {
  using LeftTile = SharedTile<T, Tiling::rows, Major::depth, Tiling::depth_bytes>;
  using RightTile = SharedTile<T, Tiling::columns, Major::depth, Tiling::depth_bytes>;
  using Left = PlaneRows<TileCopy<LeftTile, Tiling::threads, Bytes>>;
  using Right = PlaneRows<TileCopy<RightTile, Tiling::threads, Bytes>>;
};

}  // namespace fastconv::kernels
