// The main loop of the direct kernels: out[rows, columns] += A[rows, depth] * B[depth, columns] on CUDA cores, where an
// *operand* knows how to find its elements in global memory.
//
//                  columns (BN)             256 threads = 8 warps; a warp is 4 x 8 threads, a thread owns TM x TN
//               +----------------+          accumulators in registers. Both operand tiles lie in shared memory as
//        depth  |   B tile       |          [depth][rows or columns] in the accumulators' type, twice: while one pair
//        (16)   +----------------+          is multiplied, the next one travels from global memory through registers
//   +--------+  +----------------+          into the other. One barrier a step.
//   |        |  |                |
//   | A tile |  |  accumulators  |  rows    Per step and block: 2 * BM * BN * 16 FLOP for 16 * (BM + BN) elements
//   |        |  |                |  (BM)    loaded; 64 x 64 in float32 is 16 FLOP a byte, 128 x 64 is 21.
//   +--------+  +----------------+
#pragma once

#include "kernels/lattice.h"

namespace fastconv::kernels {

template <int Rows, int Columns, int ThreadRows, int ThreadColumns>
struct Tile {
  static constexpr int rows = Rows, columns = Columns, depth = 16;
  static constexpr int thread_rows = ThreadRows, thread_columns = ThreadColumns;
  static constexpr int threads = 256, warps = 8;
  static constexpr int warp_columns = Columns / (8 * ThreadColumns);  // warps side by side
  static_assert(Rows * Columns == threads * ThreadRows * ThreadColumns, "every thread has its share");
  static_assert(warps % warp_columns == 0 && Rows == (warps / warp_columns) * 4 * ThreadRows);
};

// Elements of T that one global access moves: up to 16 bytes, and up to 4 because they are spread in shared memory.
template <class T>
constexpr int vector_length = sizeof(T) == 8 ? 2 : 4;

// Which elements of an operand's tile [extent along the tile][depth] a thread loads: vectors of V along one of the two
// directions, whichever is contiguous in global memory, so that a warp's request covers whole 32-byte sectors.
//
// Along the depth: `lanes_depth` lanes cover a sector (V = 1: the whole depth, 16 lanes), the others more rows. The
// vectors are spread over `V` shared rows, all lanes of one row in the same bank: row index XOR swizzle(depth) puts the
// lanes_depth groups into different banks.
template <class T, int Extent, int V>
struct AlongDepth {
  static constexpr int depth = 16, vector = V;
  static constexpr int lanes_depth = V == 1 ? depth : 32 / int(V * sizeof(T));
  static constexpr int lanes_tile = 32 / lanes_depth;
  static constexpr int warps_depth = depth / (V * lanes_depth);
  static constexpr int tile_step = lanes_tile * 8 / warps_depth;  // tile indices covered by the 8 warps together
  static constexpr int tile_count = Extent > tile_step ? Extent / tile_step : 1, depth_count = 1;
  static constexpr int depth_step = depth;
  static constexpr int leading = Extent < 32 ? 32 : Extent;  // of the shared tile: the swizzle permutes within 32

  FC_DEVICE static int first_depth(int warp, int lane) {
    return ((warp % warps_depth) * lanes_depth + lane / lanes_tile) * V;
  }
  FC_DEVICE static int first_tile(int warp, int lane) { return (warp / warps_depth) * lanes_tile + lane % lanes_tile; }
  FC_HOST_DEVICE static constexpr int swizzle(int k) { return (k / V % lanes_depth) * lanes_tile; }

  // Vector (depth k .. k + V, tile index i) into the shared tile.
  template <class A>
  FC_DEVICE static void put(const Shared<A>& tile, int leading, int k, int i, const Vec<T, V>& value) {
    FC_UNROLL
    for (int e = 0; e < V; ++e) tile.store((k + e) * leading + (i ^ swizzle(k)), A(widen(value[e])));
  }
};

// Along the tile: lanes side by side, a warp covers up to 32 vectors of one depth.
template <class T, int Extent, int V>
struct AlongTile {
  static constexpr int depth = 16, vector = V;
  static constexpr int lanes_tile = Extent / V < 32 ? Extent / V : 32;
  static constexpr int lanes_depth = 32 / lanes_tile;
  static constexpr int tile_step = lanes_tile * V, tile_count = Extent / tile_step;
  static constexpr int leading = Extent;
  static constexpr int depth_step = 8 * lanes_depth, depth_count = depth > depth_step ? depth / depth_step : 1;

  FC_DEVICE static int first_depth(int warp, int lane) { return warp * lanes_depth + lane / lanes_tile; }
  FC_DEVICE static int first_tile(int, int lane) { return lane % lanes_tile * V; }
  FC_HOST_DEVICE static constexpr int swizzle(int) { return 0; }

  template <class A>
  FC_DEVICE static void put(const Shared<A>& tile, int leading, int k, int i, const Vec<T, V>& value) {
    Vec<A, V> wide;
    FC_UNROLL
    for (int e = 0; e < V; ++e) wide[e] = A(widen(value[e]));
    tile.template store_as<Vec<A, V>>(k * leading + i, wide);
  }
};

// Blocks that an SM should hold, by registers: two where 128 a thread are enough.
template <class T, class Tile, class SourceSweep>
constexpr int resident_blocks =
    sizeof(accumulator_t<T>) == 8 || Tile::thread_rows * Tile::thread_columns > 16 || SourceSweep::tile_count > 4 ? 1
                                                                                                                  : 2;

// One operand. `Element` of it is base[place[i] + lattice(position[j])], guarded: Guard is Spot (the sum of the two
// spots must lie inside the source) or int64_t (a plain offset; negative: nothing there).
template <class T, class Sweep, int Extent, int First, class Guard>
class Operand {
 public:
  using A = accumulator_t<T>;
  static constexpr int leading = Sweep::leading;
  static constexpr int shared_elements = leading * Sweep::depth;

  // `place(i)` gives tile index i's Guard. `start` is the linear position of the tile's first depth.
  template <class Place>
  FC_DEVICE Operand(const void* base, const Lattice<First>& lattice, const Extents& extents, int64_t start,
                    const int (&source_extent)[3], Place place)
      : base_(static_cast<const T*>(base)), lattice_(lattice), extents_(extents), source_extent_(source_extent) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    depth_ = Sweep::first_depth(warp, lane), tile_ = Sweep::first_tile(warp, lane);
    active_ = depth_ < Sweep::depth && tile_ < Extent;
    step_ = Position::at(Sweep::depth, extents);
    FC_UNROLL
    for (int i = 0; i < Sweep::tile_count; ++i) place_[i] = place(tile_ + i * Sweep::tile_step);
    FC_UNROLL
    for (int j = 0; j < Sweep::depth_count; ++j)
      position_[j] = Position::at(start + depth_ + j * Sweep::depth_step, extents);
  }

  // Global memory -> registers, then on to the next step's positions.
  FC_DEVICE void fetch() {
    if (!active_) return;
    FC_UNROLL
    for (int j = 0; j < Sweep::depth_count; ++j) {
      const bool within = position_[j].within(extents_);
      if constexpr (std::is_same_v<Guard, Spot>) {
        const Spot spot = lattice_.spot(position_[j]);
        FC_UNROLL
        for (int i = 0; i < Sweep::tile_count; ++i)
          read(j, i, within && spot.inside(place_[i], source_extent_), place_[i].offset + spot.offset);
      } else {
        const int64_t offset = lattice_.offset(position_[j]);
        FC_UNROLL
        for (int i = 0; i < Sweep::tile_count; ++i) read(j, i, within && place_[i] >= 0, place_[i] + offset);
      }
      position_[j].advance(step_, extents_);
    }
  }

  // Registers -> shared memory.
  FC_DEVICE void put(const Shared<A>& tile) const {
    if (!active_) return;
    FC_UNROLL
    for (int j = 0; j < Sweep::depth_count; ++j) {
      FC_UNROLL
      for (int i = 0; i < Sweep::tile_count; ++i)
        Sweep::put(tile, leading, depth_ + j * Sweep::depth_step, tile_ + i * Sweep::tile_step, staged_[j][i]);
    }
  }

  // `Count` elements of depth k from shared memory, in vectors of W at first, first + Spread, ...
  template <int Count, int W, int Spread>
  FC_DEVICE static void take(A (&values)[Count], const Shared<A>& tile, int k, int first) {
    const int swizzle = Sweep::swizzle(k);  // k is a constant once unrolled
    FC_UNROLL
    for (int f = 0; f < Count / W; ++f) {
      const auto vector = tile.template load_as<Vec<A, W>>(k * leading + ((first + f * Spread) ^ (swizzle / W * W)));
      FC_UNROLL
      for (int i = 0; i < W; ++i) values[f * W + i] = vector[i ^ (swizzle % W)];
    }
  }

 private:
  FC_DEVICE void read(int j, int i, bool on, int64_t offset) {
    staged_[j][i] = load_if(on, as<Vec<T, Sweep::vector>>(base_ + offset));
  }

  const T* base_;
  const Lattice<First>& lattice_;
  const Extents& extents_;
  const int (&source_extent_)[3];
  Guard place_[Sweep::tile_count];
  Position position_[Sweep::depth_count], step_;
  Vec<T, Sweep::vector> staged_[Sweep::depth_count][Sweep::tile_count] = {};
  int depth_, tile_;
  bool active_;
};

// A thread's accumulators and where they lie in the tile: vectors of `width` rows (columns), `row_spread`
// (`column_spread`) apart, so that the lanes of a warp read shared memory side by side.
template <class T, class Tile>
struct Accumulators {
  using A = accumulator_t<T>;
  static constexpr int rows = Tile::thread_rows, columns = Tile::thread_columns;
  static constexpr int widest = 16 / int(sizeof(A));
  static constexpr int row_width = rows < widest ? rows : widest, column_width = columns < widest ? columns : widest;
  static constexpr int row_spread = Tile::rows * row_width / rows;
  static constexpr int column_spread = Tile::columns * column_width / columns;

  A sum[rows][columns];
  int first_row, first_column;

  FC_DEVICE Accumulators() {
    locate(int(threadIdx.x));
    FC_UNROLL
    for (int i = 0; i < rows; ++i) {
      FC_UNROLL
      for (int j = 0; j < columns; ++j) sum[i][j] = 0;
    }
  }

  FC_DEVICE void locate(int thread) {
    const int warp = thread / 32, lane = thread % 32;
    first_row = ((warp / Tile::warp_columns) * 4 + lane / 8) * row_width;
    first_column = ((warp % Tile::warp_columns) * 8 + lane % 8) * column_width;
  }

  // Place in the tile of sum[i][j].
  FC_DEVICE int row(int i) const { return first_row + i / row_width * row_spread + i % row_width; }
  FC_DEVICE int column(int j) const { return first_column + j / column_width * column_spread + j % column_width; }

  // The vector of sums at [i][j] along the rows (columns) of the tile. Compares rather than indexes, so that i and j
  // may vary at run time and the sums stay in registers.
  template <bool AlongRows, int Width>
  FC_DEVICE Vec<A, Width> vector(int i, int j) const {
    constexpr int down = AlongRows ? Width : 1, across = AlongRows ? 1 : Width;
    Vec<A, Width> values{};
    FC_UNROLL
    for (int r = 0; r < rows; r += down) {
      FC_UNROLL
      for (int c = 0; c < columns; c += across) {
        if (r != i || c != j) continue;
        FC_UNROLL
        for (int e = 0; e < Width; ++e) values[e] = sum[r + e * AlongRows][c + e * !AlongRows];
      }
    }
    return values;
  }

  // One step: its products are summed first, so that rounding errors are those of sums of Tile::depth and of steps.
  template <class OperandA, class OperandB>
  FC_DEVICE void multiply(const Shared<A>& a_tile, const Shared<A>& b_tile) {
    A partial[rows][columns] = {};
    FC_UNROLL
    for (int k = 0; k < Tile::depth; ++k) {
      A a[rows], b[columns];
      OperandA::template take<rows, row_width, row_spread>(a, a_tile, k, first_row);
      OperandB::template take<columns, column_width, column_spread>(b, b_tile, k, first_column);
      FC_UNROLL
      for (int i = 0; i < rows; ++i) {
        FC_UNROLL
        for (int j = 0; j < columns; ++j) partial[i][j] = fma(a[i], b[j], partial[i][j]);
      }
    }
    FC_UNROLL
    for (int i = 0; i < rows; ++i) {
      FC_UNROLL
      for (int j = 0; j < columns; ++j) sum[i][j] += partial[i][j];
    }
  }

  // The main loop over `steps` tiles of the depth. Every element is summed in the order of the depth, whatever its
  // place.
  template <class OperandA, class OperandB>
  FC_DEVICE void accumulate(OperandA& a, OperandB& b, const Shared<A>& a_tiles, const Shared<A>& b_tiles, int steps) {
    a.fetch(), b.fetch();
    FC_NO_UNROLL
    for (int step = 0; step < steps; ++step) {
      const Shared<A> a_tile = a_tiles + (step & 1) * OperandA::shared_elements;
      const Shared<A> b_tile = b_tiles + (step & 1) * OperandB::shared_elements;
      a.put(a_tile), b.put(b_tile);
      sync_threads();
      if (step + 1 < steps) a.fetch(), b.fetch();
      multiply<OperandA, OperandB>(a_tile, b_tile);
    }
  }
};

}  // namespace fastconv::kernels
