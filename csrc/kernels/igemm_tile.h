// Operand tiles of the tensor-core kernels in shared memory, and a warp's fragments of them.
//
// A stage holds 64 bytes of the depth: two steps of mma, each 32 bytes = two 16-byte chunks deep, whatever the dtype.
// The tile lies in shared memory as it lies in global memory, so that it can be copied asynchronously in chunks:
//   Major::depth   [tile index][depth]   rows of 64 bytes; ldmatrix reads 8 rows of a chunk
//   Major::tile    [depth][tile index]   ldmatrix.trans reads 8 depths of a chunk; 32-bit types, which it cannot
//                                        transpose, are read word by word
// In either case the chunks of a row are permuted by XOR, so that what a warp reads at once lies in different banks.
#pragma once

#include "device/device.h"

namespace fastconv::kernels {

using namespace fastconv::device;

enum class Major : uint8_t { depth, tile };

using SharedBytes = Shared<unsigned char>;

template <class T_, int Extent, Major Order, int DepthBytes>
struct SharedTile {
  using T = T_;
  static constexpr bool depth_major = Order == Major::depth;
  static constexpr int depth = DepthBytes / int(sizeof(T)), steps = DepthBytes / 32;
  static constexpr int rows = depth_major ? Extent : depth;
  static constexpr int row_bytes = depth_major ? DepthBytes : Extent * int(sizeof(T));
  static constexpr int bytes = rows * row_bytes;
  static constexpr bool by_word = !depth_major && sizeof(T) == 4;

  // The permutation repeats every 8 rows.
  FC_DEVICE static int swizzle(int row) {
    if constexpr (by_word) return (row & 3) * 2;
    return row_bytes == 64 ? (row >> 1) & 3 : row & 7;
  }
  FC_DEVICE static int at(int row, int chunk) { return row * row_bytes + (chunk ^ swizzle(row)) * 16; }
};

// How the threads of a block copy a tile: `Bytes` at a time, neighbours along a row. A thread keeps its column and goes
// down the rows in passes.
template <class Tile_, int Threads, int Bytes>
struct TileCopy {
  using Tile = Tile_;
  using T = typename Tile::T;
  static constexpr int vector = Bytes / int(sizeof(T)), columns = Tile::row_bytes / Bytes;
  static constexpr int pass_rows = Threads / columns, passes = Tile::rows / pass_rows;
  static_assert(Threads % columns == 0 && Tile::rows % pass_rows == 0, "every thread has its share");

  FC_DEVICE static int row(int pass = 0) { return int(threadIdx.x) / columns + pass * pass_rows; }
  FC_DEVICE static int column() { return int(threadIdx.x) % columns * vector; }

  // Zeros where `on` is 0; `from` is not looked at then.
  FC_DEVICE static void copy(const SharedBytes& tile, int pass, const T* from, uint32_t on) {
    const int byte = int(threadIdx.x) % columns * Bytes;
    const int chunk = byte / 16, rest = byte % 16;
    // Whole periods of the permutation are a constant offset.
    const int to =
        pass_rows % 8 == 0 ? Tile::at(row(), chunk) + pass * pass_rows * Tile::row_bytes : Tile::at(row(pass), chunk);
    if constexpr (Bytes >= 4) {
      cp_async<Bytes>(tile.address(to + rest), from, on);
    } else {
      tile.template store_as<uint16_t>(to + rest, load_if(on != 0, as<uint16_t>(from)));
    }
  }
};

// A warp's fragments: 16 tile indices x one mma step in four registers a lane, `Parts` of them side by side. For the
// left operand (16 rows of mma's a) in the order of mma's a; for the right one as two mma operands b of 8 columns.
template <class Tile, bool Left, int Parts>
class Fragments {
 public:
  // `first`: the tile index at which the warp's part begins, a multiple of 16.
  FC_DEVICE explicit Fragments(int first) {
    const int lane = int(threadIdx.x) % 32, half_tile = Left ? lane / 8 % 2 : lane / 16,
              half_depth = Left ? lane / 16 : lane / 8 % 2;
    if constexpr (Tile::depth_major) {
      const int at = Tile::at(first + 8 * half_tile + lane % 8, half_depth);
      FC_UNROLL
      for (int step = 0; step < Tile::steps; ++step) at_[step] = kept(at ^ step * 32);  // two chunks further
    } else if constexpr (!Tile::by_word) {
      FC_UNROLL
      for (int i = 0; i < Parts; ++i) at_[i] = kept(Tile::at(8 * half_depth + lane % 8, first / 8 + half_tile + 2 * i));
    } else {
      const int index = first + lane / 4;
      FC_UNROLL
      for (int i = 0; i < 2 * Parts; ++i) at_[i] = Tile::at(lane % 4, index / 4 + 2 * i) + index % 4 * 4;
    }
  }

  // Of tile indices first + 16 * i, at mma step `step`. What `i` or `step` adds keeps the permutation: a constant.
  FC_DEVICE void load(uint32_t (&r)[4], const SharedBytes& tile, int i, int step) const {
    if constexpr (Tile::depth_major) {
      ldmatrix_x4(r, tile.address(at_[step] + i * 16 * Tile::row_bytes));
    } else if constexpr (!Tile::by_word) {
      ldmatrix_x4_trans(r, tile.address(at_[i] + step * 16 * Tile::row_bytes));
    } else {
      FC_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int half_tile = Left ? e % 2 : e / 2, half_depth = Left ? e / 2 : e % 2;
        r[e] = tile.template load_as<uint32_t>(at_[2 * i + half_tile] + (8 * step + 4 * half_depth) * Tile::row_bytes);
      }
    }
  }

 private:
  int at_[Tile::depth_major ? Tile::steps : Tile::by_word ? 2 * Parts : Parts];  // bytes
};

// The parts of a block's tile that its warps own, and the multiplication of one stage.
template <int Rows, int Columns, int WarpRows, int WarpColumns, int DepthBytes, int Stages>
struct WarpTiling {
  static constexpr int rows = Rows, columns = Columns, warp_rows = WarpRows, warp_columns = WarpColumns;
  static constexpr int depth_bytes = DepthBytes, stages = Stages;
  static constexpr int warps_down = Rows / WarpRows, warps_across = Columns / WarpColumns;
  static constexpr int threads = 32 * warps_down * warps_across;
  static_assert(WarpRows % 16 == 0 && WarpColumns % 16 == 0);

  FC_DEVICE static int first_row() { return int(threadIdx.x) / 32 / warps_across * WarpRows; }
  FC_DEVICE static int first_column() { return int(threadIdx.x) / 32 % warps_across * WarpColumns; }
};

// What the tensor cores multiply: 16-bit operands as they are, float32 in one tf32 part or in two.
template <class T, Math Products>
struct Operands {
  static constexpr int parts = Products == Math::tf32x3 ? 2 : 1;
  uint32_t big[4], small[parts == 2 ? 4 : 1];

  // Rounds to nearest: the tensor core itself would cut off. x = big + small to 21 bits (Ootomo and Yokota, 2022).
  FC_DEVICE void split() {
    if constexpr (sizeof(T) == 4) {
      FC_UNROLL
      for (int e = 0; e < 4; ++e) {
        const float value = float_of(big[e]);
        big[e] = to_tf32(value);
        if constexpr (parts == 2) {
          const float rest = value - float_of(big[e]);
          small[e] = rest == rest ? to_tf32(rest) : 0;  // of an infinity: none
        }
      }
    }
  }

 private:
  FC_DEVICE static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
};

// A warp's float32 accumulators: sum[i][j] is the m16n8 block at rows 16 i, columns 8 j.
template <class T, Math Products, class Tiling>
struct WarpSums {
  static constexpr int down = Tiling::warp_rows / 16, across = Tiling::warp_columns / 8;
  // tf32x3 is for accuracy: every two steps are summed apart, by the tensor core, which cuts off, and join the total
  // rounded.
  static constexpr bool apart = Products == Math::tf32x3;
  float sum[down][across][4] = {};

  template <class LeftTile>
  using LeftFragments = Fragments<LeftTile, true, down>;
  template <class RightTile>
  using RightFragments = Fragments<RightTile, false, across / 2>;

  template <class LeftTile, class RightTile>
  FC_DEVICE void multiply(const Fragments<LeftTile, true, down>& left,
                          const Fragments<RightTile, false, across / 2>& right, const SharedBytes& left_tile,
                          const SharedBytes& right_tile) {
    if constexpr (!apart) return multiply_into<0, LeftTile::steps>(sum, left, right, left_tile, right_tile);
    add_apart<0>(left, right, left_tile, right_tile);
    if constexpr (LeftTile::steps == 4) add_apart<2>(left, right, left_tile, right_tile);
  }

 private:
  template <int First, class LeftTile, class RightTile>
  FC_DEVICE void add_apart(const Fragments<LeftTile, true, down>& left,
                           const Fragments<RightTile, false, across / 2>& right, const SharedBytes& left_tile,
                           const SharedBytes& right_tile) {
    float part[down][across][4] = {};
    multiply_into<First, First + 2>(part, left, right, left_tile, right_tile);
    FC_UNROLL
    for (int i = 0; i < down; ++i) {
      FC_UNROLL
      for (int j = 0; j < across; ++j) {
        FC_UNROLL
        for (int e = 0; e < 4; ++e) sum[i][j][e] += part[i][j][e];
      }
    }
  }

  template <int First, int Last, class LeftTile, class RightTile>
  FC_DEVICE static void multiply_into(float (&d)[down][across][4], const Fragments<LeftTile, true, down>& left,
                                      const Fragments<RightTile, false, across / 2>& right,
                                      const SharedBytes& left_tile, const SharedBytes& right_tile) {
    FC_UNROLL
    for (int step = First; step < Last; ++step) {
      Operands<T, Products> a[down], b[across / 2];
      FC_UNROLL
      for (int i = 0; i < down; ++i) left.load(a[i].big, left_tile, i, step), a[i].split();
      FC_UNROLL
      for (int j = 0; j < across / 2; ++j) right.load(b[j].big, right_tile, j, step), b[j].split();
      FC_UNROLL
      for (int i = 0; i < down; ++i) {
        FC_UNROLL
        for (int j = 0; j < across; ++j) {
          if constexpr (apart) {  // small products first
            mma(d[i][j], a[i].small, b[j / 2].big, j % 2);
            mma(d[i][j], a[i].big, b[j / 2].small, j % 2);
          }
          mma(d[i][j], a[i].big, b[j / 2].big, j % 2);
        }
      }
    }
  }

  // With the first or second mma operand b of a pair.
  FC_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&pair)[4], int which) {
    const uint32_t b[2] = {pair[2 * which], pair[2 * which + 1]};
    if constexpr (sizeof(T) == 2) {
      mma_m16n8k16<T>(d, a, b);
    } else {
      mma_m16n8k8_tf32(d, a, b);
    }
  }
};

// What every kernel's configuration begins with.
template <class T_, Math Products, class Tiling_>
struct IgemmConfig {
  using T = T_;
  using Tiling = Tiling_;
  using Sums = WarpSums<T, Products, Tiling>;
  static constexpr int threads = Tiling::threads;
};

}  // namespace fastconv::kernels
