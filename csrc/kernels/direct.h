// Direct convolution on CUDA cores: any dtype, geometry and layout. An implicit GEMM (gemm_tile.h): the im2col matrix
// is never stored, its elements are gathered from the source while a tile is loaded.
//
//   fprop   y[k, (n p q)]      = sum over (c r s)  w[k, (c r s)]   x[(c r s), (n p q)]
//   dgrad   gx[c, (n h w)]     = sum over (k r s)  w[(k r s), c]   gy[(k r s), (n h w)]     one stride phase at a time
//   wgrad   gw[k, (c r s)]     = sum over (n p q)  gy[k, (n p q)]  x[(n p q), (c r s)]      in slices of the sum
//
// One block computes one tile for one group (and phase, or slice). The order of a sum depends on neither the batch nor
// the tile's place. Per group fprop and dgrad read the source ceil(rows / BM) times (once where the rows fit a tile,
// through L2 where not) and the filter once a column tile; 2 * N * K * P * Q * C/groups * R * S FLOP.
// NHWC loads vectors along the channels; NCHW's lanes run along the pixels (source) or the filter's row.
#pragma once

#include "kernels/block.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"

namespace fastconv::kernels {

template <Access Walk>
constexpr bool channels_last = Walk != Access::nchw;

// Storing the accumulators: row m and the column with offset o go to out[o + m * row_stride]; a negative offset is no
// column. AlongRows: the rows are contiguous in memory, else the columns. `finish(sums, on, m, step, place)` makes a
// vector of elements from sums of rows m, m + step, ...; its code is long, so the loops are not unrolled.
//
// Where whole vectors along the contiguous axis are aligned, every thread stores its own.
template <bool AlongRows, class Element, class T, class Tile, class Offsets, class Finish>
FC_DEVICE void store_vectors(const Accumulators<T, Tile>& sums, Element* out, int64_t row_stride, int first_row,
                             int rows, Offsets column_offset, Finish finish) {
  using S = Accumulators<T, Tile>;
  constexpr int width = AlongRows ? S::row_width : S::column_width, down = AlongRows, across = !AlongRows;
  FC_NO_UNROLL
  for (int j = 0; j < S::columns; j += across ? width : 1) {
    const int64_t offset = column_offset(sums.column(j));
    FC_NO_UNROLL
    for (int i = 0; i < S::rows; i += down ? width : 1) {
      const int m = first_row + sums.row(i);
      const bool on = m < rows && offset >= 0;
      const int64_t place = offset + m * row_stride;
      const Vec<Element, width> values = finish(sums.template vector<AlongRows, width>(i, j), on, m, down, place);
      store_if(on, as<Vec<Element, width>>(out + place), values);
    }
  }
}

// Elsewhere a warp passes its accumulators through shared memory, a vector a lane at a time, so that its lanes store
// neighbouring elements.
template <bool AlongRows, class Element, class T, class Tile, class Offsets, class Finish>
FC_DEVICE void store_elements(const Accumulators<T, Tile>& sums, const Shared<accumulator_t<T>>& scratch, Element* out,
                              int64_t row_stride, int first_row, int rows, Offsets column_offset, Finish finish) {
  using S = Accumulators<T, Tile>;
  using A = accumulator_t<T>;
  constexpr int width = AlongRows ? S::row_width : S::column_width, down = AlongRows, across = !AlongRows;
  constexpr int run = (AlongRows ? 4 : 8) * width;  // contiguous elements that a warp has
  const int lane = int(threadIdx.x) % 32, lane_row = lane / 8, lane_column = lane % 8;
  const Shared<A> mine = scratch + int(threadIdx.x) / 32 * 32 * width;
  const int put_at = (AlongRows ? lane_column * 4 + lane_row : lane) * width;
  FC_NO_UNROLL
  for (int j = 0; j < S::columns; j += across ? width : 1) {
    // Columns side by side: the one that this lane will store; else its own.
    const int64_t offset = column_offset(across ? sums.column(j) - lane_column * width + lane % run : sums.column(j));
    FC_NO_UNROLL
    for (int i = 0; i < S::rows; i += down ? width : 1) {
      mine.template store_as<Vec<A, width>>(put_at, sums.template vector<AlongRows, width>(i, j));
      sync_warp();
      FC_NO_UNROLL
      for (int q = 0; q < width; ++q) {
        const int at = lane + 32 * q;
        const int m = first_row + sums.row(i) - lane_row * S::row_width + (down ? at % run : at / run * S::row_width);
        const int64_t o = across ? offset : shuffle(full_warp, offset, at / run);
        const bool on = m < rows && o >= 0;
        const int64_t place = o + m * row_stride;
        const Vec<Element, 1> value = finish(Vec<A, 1>{{mine.load(at)}}, on, m, 1, place);
        store_if(on, out + place, value[0]);
      }
      sync_warp();
    }
  }
}

// fprop and dgrad. FilterAlongRows: the filter's contiguous axis is the tile's rows (dgrad, channels last) and it is
// vectorised like the source; else it is the depth.
template <class T_, class Tile_, Access Walk_, bool FilterAlongRows>
struct GatherConfig {
  using T = T_;
  using Tile = Tile_;
  static constexpr Access walk = Walk_;
  static constexpr int threads = Tile::threads;
  static constexpr int vector = walk == Access::nhwc_vector ? vector_length<T> : 1;
  // Counting order of the depth: (channel, t, r, s), or (t, r, s, channel) channels last.
  static constexpr int first_axis = channels_last<walk> ? 0 : 1;
  using FilterSweep =
      std::conditional_t<FilterAlongRows, AlongTile<T, Tile::rows, vector>, AlongDepth<T, Tile::rows, vector>>;
  using SourceSweep =
      std::conditional_t<channels_last<walk>, AlongDepth<T, Tile::columns, vector>, AlongTile<T, Tile::columns, 1>>;
  // Element by element along the channels takes a place for each of many columns: registers for one block.
  static constexpr int blocks = walk == Access::nhwc ? 1 : resident_blocks<T, Tile, SourceSweep>;
  using Filter = Operand<T, FilterSweep, Tile::rows, first_axis, int64_t>;
  using Source = Operand<T, SourceSweep, Tile::columns, first_axis, Spot>;
};

// Digits of the columns give their place in the output.
template <class Config, class Sums, class A>
FC_DEVICE void gather_epilogue(const GatherParams& p, const GatherBlock& block, const Sums& sums,
                               const Shared<A>& scratch) {
  using T = typename Config::T;
  Lattice<1> lattice;
  lattice.base = block.group * p.out_strides.group, lattice.stride[0] = p.out_strides.batch;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) {
    lattice.base += block.axis[i].out_first * p.out_strides.axis[i];
    lattice.stride[i + 1] = block.axis[i].out_step * p.out_strides.axis[i];
  }
  const Extents positions{{int(p.batch), block.axis[0].positions, block.axis[1].positions, block.axis[2].positions}};
  const auto column_offset = [&](int column) {
    const Position position = Position::at(block.first_column + column, positions);
    return position.within(positions) ? lattice.offset(position) : int64_t(-1);
  };
  const Epilogue<T> epilogue(p, block.group * p.rows);
  const auto finish = [&](const auto& values, bool on, int row, int step, int64_t place) {
    return epilogue.finish(values, on, row, step, place);
  };
  constexpr bool along_rows = channels_last<Config::walk>;
  T* out = static_cast<T*>(p.out);
  const int64_t row_stride = p.out_strides.channel;
  if (p.vector_stores) {
    store_vectors<along_rows>(sums, out, row_stride, block.first_row, p.rows, column_offset, finish);
  } else {
    sync_threads();  // the scratch lies over the tiles
    store_elements<along_rows>(sums, scratch, out, row_stride, block.first_row, p.rows, column_offset, finish);
  }
}

template <class Config>
FC_KERNEL(Config::threads, Config::blocks)
void direct_gather(const FC_GRID_CONSTANT GatherParams p) {
  using T = typename Config::T;
  using Tile = typename Config::Tile;
  using Filter = typename Config::Filter;
  using Source = typename Config::Source;
  constexpr int first_axis = Config::first_axis;
  FC_STATIC_SHARED(accumulator_t<T>, filter_tiles, 2 * Filter::shared_elements);
  FC_STATIC_SHARED(accumulator_t<T>, source_tiles, 2 * Source::shared_elements);

  const GatherBlock block(p, Tile::rows, Tile::columns);
  const auto& axis = block.axis;
  // A batch of 2^31 samples or more is refused by the planner.
  const Extents positions{{int(p.batch), axis[0].positions, axis[1].positions, axis[2].positions}};
  if (block.first_column >= positions.volume()) return;  // a phase shorter than the longest: the whole block leaves

  const Extents taps = tap_extents<first_axis>(axis, p.channels);
  Accumulators<T, Tile> sums;
  if (axis[0].taps * axis[1].taps * axis[2].taps > 0) {
    int64_t filter_axis[3], filter_base = block.group * p.filter_group;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) {
      filter_base += axis[i].filter_first * p.filter_axis[i];
      filter_axis[i] = axis[i].filter_step * p.filter_axis[i];
    }
    Lattice<first_axis> filter_lattice;
    filter_lattice.base = filter_base;
    filter_lattice.stride[first_axis == 1 ? 0 : 3] = p.filter_channel;
    FC_UNROLL
    for (int i = 0; i < 3; ++i) filter_lattice.stride[first_axis + i] = filter_axis[i];

    const auto source_lattice = tap_lattice<first_axis>(axis, p.source_strides.axis, p.source_strides.channel);
    const Lattice<1> origins = position_lattice(axis, p.source_strides);
    const int source_extent[3] = {p.axis[0].source_extent, p.axis[1].source_extent, p.axis[2].source_extent};

    Filter filter(p.filter, filter_lattice, taps, 0, source_extent, [&](int i) {
      const int row = block.first_row + i;
      return row < p.rows ? row * p.filter_row : int64_t(-1);
    });
    Source source(static_cast<const T*>(p.source) + block.group * p.source_strides.group, source_lattice, taps, 0,
                  source_extent, [&](int i) {
                    const Position position = Position::at(block.first_column + i, positions);
                    Spot spot = origins.spot(position);
                    if (!position.within(positions)) spot.move_outside();
                    return spot;
                  });
    const int steps = int((taps.volume() + Tile::depth - 1) / Tile::depth);
    sums.accumulate(filter, source, filter_tiles, source_tiles, steps);
  }
  sums.locate(fresh_thread_index());
  gather_epilogue<Config>(p, GatherBlock(p, Tile::rows, Tile::columns), sums, source_tiles);
}

// wgrad. NCHW: both operands lie along the depth (pixels); channels last: along the tile (channels), in vectors.
template <class T_, class Tile_, Access Walk_>
struct WgradConfig {
  using T = T_;
  using Tile = Tile_;
  static constexpr Access walk = Walk_;
  static constexpr int threads = Tile::threads;
  static constexpr int vector = walk == Access::nhwc_vector ? vector_length<T> : 1;
  static constexpr int first_axis = channels_last<walk> ? 0 : 1;  // of the columns' counting order
  template <int Extent>
  using Sweep = std::conditional_t<channels_last<walk>, AlongTile<T, Extent, vector>, AlongDepth<T, Extent, 1>>;
  static constexpr int blocks = resident_blocks<T, Tile, Sweep<Tile::columns>>;
  using Gradient = Operand<T, Sweep<Tile::rows>, Tile::rows, 1, int64_t>;
  using Source = Operand<T, Sweep<Tile::columns>, Tile::columns, 1, Spot>;
};

template <class Config>
FC_KERNEL(Config::threads, Config::blocks)
void direct_wgrad(const FC_GRID_CONSTANT WgradParams p) {
  using T = typename Config::T;
  using A = accumulator_t<T>;
  using Tile = typename Config::Tile;
  using Gradient = typename Config::Gradient;
  using Source = typename Config::Source;
  constexpr int first_axis = Config::first_axis;
  FC_STATIC_SHARED(A, gradient_tiles, 2 * Gradient::shared_elements);
  FC_STATIC_SHARED(A, source_tiles, 2 * Source::shared_elements);

  int index = int(blockIdx.x);
  const int first_row = index % p.row_tiles * Tile::rows;
  index /= p.row_tiles;
  const int first_column = index % p.column_tiles * Tile::columns;
  index /= p.column_tiles;
  const int group = index % p.groups, slice = index / p.groups;

  const AxisPhase axis[3] = {AxisPhase::fprop(p.axis[0]), AxisPhase::fprop(p.axis[1]), AxisPhase::fprop(p.axis[2])};
  const Extents positions{{int(p.batch), axis[0].positions, axis[1].positions, axis[2].positions}};
  const Extents taps = tap_extents<first_axis>(axis, p.channels);
  const auto tap_spots = tap_lattice<first_axis>(axis, p.x_strides.axis, p.x_strides.channel);
  const Lattice<1> source_lattice = position_lattice(axis, p.x_strides);
  Lattice<1> gradient_lattice;
  gradient_lattice.base = group * p.gy_strides.group, gradient_lattice.stride[0] = p.gy_strides.batch;
  FC_UNROLL
  for (int i = 0; i < 3; ++i) gradient_lattice.stride[i + 1] = p.gy_strides.axis[i];
  const int source_extent[3] = {p.axis[0].source_extent, p.axis[1].source_extent, p.axis[2].source_extent};

  const int64_t start = slice * p.slice_length, rest = positions.volume() - start;
  Gradient gradient(p.gy, gradient_lattice, positions, start, source_extent, [&](int i) {
    const int row = first_row + i;
    return row < p.rows ? row * p.gy_strides.channel : int64_t(-1);
  });
  Source source(static_cast<const T*>(p.x) + group * p.x_strides.group, source_lattice, positions, start, source_extent,
                [&](int i) {
                  const Position position = Position::at(first_column + i, taps);
                  Spot spot = tap_spots.spot(position);
                  if (!position.within(taps)) spot.move_outside();
                  return spot;
                });
  Accumulators<T, Tile> sums;
  const int64_t length = rest < p.slice_length ? rest : p.slice_length;
  sums.accumulate(gradient, source, gradient_tiles, source_tiles, int((length + Tile::depth - 1) / Tile::depth));

  const int64_t place = (int64_t(slice) * p.groups + group) * p.rows * p.columns;
  const auto column_offset = [&](int column) {
    return first_column + column < p.columns ? int64_t(first_column + column) : int64_t(-1);
  };
  const auto put = [&](auto* out, auto finish) {
    if (p.vector_stores) {
      store_vectors<false>(sums, out + place, p.columns, first_row, p.rows, column_offset, finish);
    } else {
      sync_threads();  // the scratch lies over the tiles
      store_elements<false>(sums, source_tiles, out + place, p.columns, first_row, p.rows, column_offset, finish);
    }
  };
  if (p.partial) {
    put(static_cast<A*>(p.out), [](const auto& values, auto...) { return values; });
  } else {
    put(static_cast<T*>(p.out), [](const auto& values, auto...) { return Epilogue<T>::narrowed(values); });
  }
}

}  // namespace fastconv::kernels
