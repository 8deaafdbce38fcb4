// Depthwise convolution with large filters on tensor cores: a row of the filter, as a Toeplitz matrix, times the image.
//
//        one row r of the filter, S taps           the image's rows a + r,       16 x 8 outputs: column b down,
//        16 outputs down, 16 columns across        8 of them side by side        row a across
//      b \ k   0  1  2  3 ...                     k \ a  0   1  ..  7
//       0    [ w0 w1 w2 w3 ..          ]           0  [                ]
//       1    [  0 w0 w1 w2 ..          ]     x     1  [  image[a+r, k] ]     added to out[a, b], for every r and
//       2    [  0  0 w0 w1 ..          ]           :  [                ]     every 16 columns k that the taps reach
//       :                                          15
// Of the products, S / (16 ceil((S + 15) / 16)) are of taps, 0.65 for 31, 0.53 for 17: ten times less work than the
// tensor cores could do still is several times what CUDA cores do. A wrong turn would be to fetch the Toeplitz matrix:
// a thread's part of it is three words of the filter's row (mma's a[0] and a[3] are the same), at offset k - b. For odd
// offsets a second copy of the filter lies one element further, so that two taps are a word. The image's part is
// ldmatrix's, of a patch that holds zeros where the image ends.
//
// A block owns a square of outputs of one plane; its four warps take every fourth row of the filter, and add up their
// sums in a fixed order. The next chunk's columns serve two squares of 16, one with this chunk's matrix, one with the
// last one's. Zeros of the matrix are multiplied, so an infinity of the image makes NaN of its neighbours' outputs, up
// to 15 columns away.
#pragma once

#include "kernels/depthwise_toeplitz_params.h"
#include "kernels/epilogue.h"

namespace fastconv::kernels {

struct ToeplitzBlock {
  int channel, slice, first_row, first_column;

  FC_DEVICE ToeplitzBlock(const ToeplitzParams& p, int size) {
    int index = int(blockIdx.x), rest = p.by_across.divide(index);
    first_column = p.by_across.remainder(index, rest) * size;
    index = rest, rest = p.by_down.divide(index);
    first_row = p.by_down.remainder(index, rest) * size;
    slice = p.by_channels.divide(rest), channel = p.by_channels.remainder(rest, slice);
  }
};

// One item: a band of a filter's rows, and the patch of the image that the block's outputs see through it.
template <class T>
struct ToeplitzItem {
  const T *filter, *image;  // planes
  int first, rows;          // of the filter
  int row, column;          // of the image, where the patch begins

  FC_DEVICE ToeplitzItem(const ToeplitzParams& p, const ToeplitzBlock& block, int index) {
    const int sample = p.by_bands.divide(index), band = p.by_bands.remainder(index, sample);
    const int64_t plane = int64_t(sample) * p.channels + block.channel;
    image = static_cast<const T*>(p.image) + plane * p.image_plane;
    filter = static_cast<const T*>(p.filter) + (p.sums ? plane : block.channel) * p.filter_plane;
    first = band * p.band_rows, rows = min(p.band_rows, p.filter_rows - first);
    row = block.first_row - p.pad_rows + first, column = block.first_column - p.pad_columns - p.shift;
  }

  // Each tap to both copies of the filter: in the first one tap x is element x + 16 of a row, in the second x + 15.
  FC_DEVICE void stage_filter(const ToeplitzParams& p, const Shared<T>& copies) const {
    for (int i = int(threadIdx.x); i < rows * p.filter_columns; i += toeplitz_threads) {
      const int r = p.by_filter_columns.divide(i), x = p.by_filter_columns.remainder(i, r) + p.shift;
      const int place = first * p.filter_columns + i, last = p.filter_rows * p.filter_columns - 1;
      const T tap = load(filter + (p.gather.transposed ? last - place : place));
      copies.store(r * p.filter_pitch + x + 16, tap);
      copies.store(p.filter_copy + r * p.filter_pitch + x + 15, tap);
    }
  }

  // Copies are within the image or outside of it: both its rows and the patch's begin with one.
  template <int Bytes>
  FC_DEVICE void stage_patch(const ToeplitzParams& p, const Shared<T>& patch) const {
    constexpr int vector = Bytes / int(sizeof(T));
    const int width = int(p.by_patch_row.value);
    for (int i = int(threadIdx.x); i < p.patch_rows * width; i += toeplitz_threads) {
      const int y = p.by_patch_row.divide(i), x = p.by_patch_row.remainder(i, y) * vector;
      const int h = row + y, w = column + x, to = y * p.patch_pitch + x;
      const bool on = unsigned(h) < unsigned(p.image_rows) && unsigned(w) < unsigned(p.image_columns);
      const T* from = image + int64_t(h) * p.image_columns + w;
      if constexpr (Bytes >= 4) {
        cp_async<Bytes>(patch.address(to), from, on);
      } else {
        patch.store(to, load_if(on, from));
      }
    }
  }

  // Returns before the copies have landed: see cp_async_wait.
  FC_DEVICE void stage_patch(const ToeplitzParams& p, const Shared<T>& patch) const {
    if (p.copy_bytes == 16) {
      stage_patch<16>(p, patch);
    } else if (p.copy_bytes >= 4) {
      stage_patch<4>(p, patch);
    } else {
      stage_patch<2>(p, patch);
    }
    cp_async_commit();
  }
};

// A warp's sums of a square of outputs: sum[t][n] is of columns 16 t.. and rows 8 n...
template <class T, int Size>
struct ToeplitzSums {
  static constexpr int across = Size / 16, down = Size / 8;
  static constexpr int pitch = Size + 4;  // of a row in the scratch: two rows are eight banks apart
  float sum[across][down][4] = {};

  FC_DEVICE void add(const ToeplitzParams& p, const ToeplitzItem<T>& item, const Shared<T>& copies,
                     const Shared<T>& patch) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, odd = g & 1;
    const Shared<T> matrix = copies + (odd * p.filter_copy + 16 - odd + 2 * (lane % 4) - g);
    const Shared<T> columns = patch + ((8 * (lane / 16) + lane % 8) * p.patch_pitch + 8 * (lane / 8 % 2));
    // Chunks that lie on the image.
    const int first = max(0, -item.column / 16);
    const int end = min(p.chunks + across - 1, (p.image_columns - item.column + 15) / 16);
    for (int r = int(threadIdx.x) / 32; r < item.rows && first < end; r += toeplitz_warps) {
      if (item.row + r >= p.image_rows || item.row + r + Size <= 0) continue;  // rows of zeros
      add_row(p, first, end, matrix + r * p.filter_pitch, columns + r * p.patch_pitch);
    }
  }

  // The warps' sums, one after the other, in shared memory.
  FC_DEVICE void put(const Shared<float>& scratch) const {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    FC_UNROLL
    for (int t = 0; t < across; ++t) {
      FC_UNROLL
      for (int n = 0; n < down; ++n) {
        FC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int b = 16 * t + lane / 4 + 8 * (i / 2), a = 8 * n + 2 * (lane % 4) + i % 2;
          scratch.store((warp * Size + a) * pitch + b, sum[t][n][i]);
        }
      }
    }
  }

 private:
  struct Matrix {
    uint32_t below, here, above;  // taps at offsets 8 less, as they are, 8 more
  };

  // Two chunks a round, so that one's matrix becomes the last one without a move.
  FC_DEVICE void add_row(const ToeplitzParams& p, int first, int end, Shared<T> matrix, Shared<T> columns) {
    matrix = matrix + 16 * first, columns = columns + 16 * first;
    Matrix even{}, odd{0, 0, matrix.template load_as<uint32_t>(-8)};
    if (across == 2 && first > 0)
      odd.here = matrix.template load_as<uint32_t>(-16), odd.below = matrix.template load_as<uint32_t>(-24);
    FC_NO_UNROLL
    for (int k = first; k < end; k += 2) {
      add_chunk(p, k, even, odd, matrix, columns);
      if (k + 1 < end) add_chunk(p, k + 1, odd, even, matrix + 16, columns + 16);
      matrix = matrix + 32, columns = columns + 32;
    }
  }

  FC_DEVICE void add_chunk(const ToeplitzParams& p, int k, Matrix& now, const Matrix& before, const Shared<T>& matrix,
                           const Shared<T>& columns) {
    uint32_t image[down / 2][4];
    FC_UNROLL
    for (int n = 0; n < down / 2; ++n) ldmatrix_x4(image[n], columns.address(n * 16 * p.patch_pitch));
    if (k < p.chunks) {
      now = {before.above, matrix.template load_as<uint32_t>(0), matrix.template load_as<uint32_t>(8)};
      multiply(0, now, image);
    }
    if (across == 2 && k > 0) multiply(across - 1, before, image);
  }

  FC_DEVICE void multiply(int t, const Matrix& matrix, const uint32_t (&image)[down / 2][4]) {
    const uint32_t a[4] = {matrix.here, matrix.below, matrix.above, matrix.here};
    FC_UNROLL
    for (int n = 0; n < down; ++n) {
      const uint32_t b[2] = {image[n / 2][n % 2 * 2], image[n / 2][n % 2 * 2 + 1]};
      mma_m16n8k16<T>(sum[t][n], a, b);
    }
  }
};

// The block's outputs, neighbours along a row: the warps' sums in order, finished.
template <class T, int Size>
FC_DEVICE void store_square(const ToeplitzParams& p, const ToeplitzBlock& block, const Shared<float>& scratch) {
  constexpr int pitch = ToeplitzSums<T, Size>::pitch;
  const Epilogue<T> epilogue(p.gather, 0);
  const int64_t plane = int64_t(block.slice) * p.channels + block.channel;
  FC_NO_UNROLL
  for (int i = int(threadIdx.x); i < Size * Size; i += toeplitz_threads) {
    const int a = i / Size, b = i % Size;
    Vec<float, 1> total{};
    FC_UNROLL
    for (int warp = 0; warp < toeplitz_warps; ++warp) total[0] += scratch.load((warp * Size + a) * pitch + b);
    const int row = block.first_row + a, column = block.first_column + b;
    const bool on = row < p.out_rows && column < p.out_columns;
    const int64_t o = plane * p.out_plane + int64_t(row) * p.out_columns + column;
    if (p.partial) {
      store_if(on, static_cast<float*>(p.out) + o, total[0]);
    } else {
      store_if(on, static_cast<T*>(p.out) + o, epilogue.finish(total, on, block.channel, 1, o)[0]);
    }
  }
}

template <class T, int Size>
FC_KERNEL(toeplitz_threads, 1)
void depthwise_toeplitz(const FC_GRID_CONSTANT ToeplitzParams p) {
  const ToeplitzBlock block(p, Size);
  const Shared<T> copies = dynamic_shared<T>(), patch = copies + 2 * p.filter_copy;
  ToeplitzSums<T, Size> sums;
  // What is not a tap stays zero.
  for (int i = int(threadIdx.x) * 8; i < 2 * p.filter_copy; i += toeplitz_threads * 8)
    copies.template store_as<Vec<T, 8>>(i, {});
  const int last = min(p.items, (block.slice + 1) * p.items_a_slice);
  for (int index = block.slice * p.items_a_slice; index < last; ++index) {
    const ToeplitzItem<T> item(p, block, index);
    sync_threads();  // the item before has been read
    item.stage_patch(p, patch);
    item.stage_filter(p, copies);
    cp_async_wait<0>();
    sync_threads();
    sums.add(p, item, copies, patch);
  }
  sync_threads();
  const Shared<float> scratch = dynamic_shared<float>();
  sums.put(scratch);
  sync_threads();
  store_square<T, Size>(p, block, scratch);
}

}  // namespace fastconv::kernels
