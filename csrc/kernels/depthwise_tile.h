// The source of a block of outputs of a depthwise convolution, brought into shared memory once: the tile's windows
// overlap, so every element is used by up to R * S outputs.
//
//    a plane of the source                Only elements that the source has are staged: a patch at the rim is moved
//   +---------------------------+         inwards, and who reads beyond it asks for zero. Padding that is not zeros is
//   |    patch (shared)         |         staged like the rest: `padding_source` says what it
//   |   +-------------------+   |         holds.
//   |   | windows of the    |   |         Copies are of 16 bytes where rows (channels first) or channels (last) allow,
//   |   | tile's outputs    |   |         of 4, or of single elements.
//   |   +-------------------+   |
//   +---------------------------+
#pragma once

#include "device/device.h"
#include "fastconv/padding.h"
#include "kernels/depthwise_tile_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

// A tile's place: its first plane and, on each axis, its first output and where its patch starts.
struct TileBlock {
  int64_t first_plane;
  int planes, first_channel = 0;
  int out_first[3], start[3];

  // The index counts (planes, d, h, w); `shift`: how many taps further its windows start.
  FC_DEVICE TileBlock(const DepthwiseTile& t, int index, const int (&shift)[3] = {0, 0, 0}) {
    FC_UNROLL
    for (int i = 2; i >= 0; --i) {
      const TileAxis& a = t.axis[i];
      const int quotient = a.by_tiles.divide(index), tile = a.by_tiles.remainder(index, quotient);
      index = quotient;
      out_first[i] = tile * a.tile;
      start[i] = min(max(a.origin + tile * a.advance + shift[i] * a.spacing, a.lowest), a.highest);
      if (i == 2) start[i] -= start[i] & (t.aligned - 1);
    }
    first_plane = int64_t(index) * t.planes;
    planes = int(min(int64_t(t.planes), t.outer - first_plane));
  }
};

// Where a column of the patch lies in its row, in columns.
FC_DEVICE int column_place(const DepthwiseTile& t, int column) {
  return t.half > 0 ? (column >> 1) + (column & 1) * t.half : column;
}

// The first column of a row's copies, of which lanes take one each. Of halves, lanes of channels walk one, then the
// other (a column's channels are whole sectors); lanes of columns walk both at once, 16 banks apart.
FC_DEVICE int copied_column(const DepthwiseTile& t, int copy) {
  if (!t.by_halves) return copy * t.copy_columns;
  return copy < t.half ? 2 * copy : 2 * (copy - t.half) + 1;
}

template <class T, int Bytes>
FC_DEVICE void copy_patch(const DepthwiseTile& t, const TileBlock& block, const T* source, const Strides& strides,
                          const Shared<T>& patch) {
  constexpr int vector = Bytes / int(sizeof(T));
  const int copies = t.planes * t.axis[0].patch * t.axis[1].patch * t.row_copies;
  for (int i = int(threadIdx.x); i < copies; i += depthwise_tile_threads) {
    const int row = t.by_row_copies.divide(i), unit = t.by_row_copies.remainder(i, row);
    const int slice = t.by_rows.divide(row), y = t.by_rows.remainder(row, slice);
    const int plane = t.by_slices.divide(slice), z = t.by_slices.remainder(slice, plane);
    const int copy = t.by_channel_copies.divide(unit), c = t.by_channel_copies.remainder(unit, copy) * vector;
    const int x = copied_column(t, copy);
    const bool on = plane < block.planes && block.first_channel + c < t.channels && x < t.axis[2].patch;
    const T* from = source + (block.first_plane + plane) * t.outer_stride + block.first_channel + c +
                    padding_source(t.pad_mode, t.axis[0].source_extent, block.start[0] + z) * strides.axis[0] +
                    padding_source(t.pad_mode, t.axis[1].source_extent, block.start[1] + y) * strides.axis[1] +
                    padding_source(t.pad_mode, t.axis[2].source_extent, block.start[2] + x) * strides.axis[2];
    const int to = plane * t.plane_pitch + z * t.slice_pitch + y * t.row_pitch + column_place(t, x) * t.chunk + c;
    if constexpr (Bytes >= 4) {
      cp_async<Bytes>(patch.address(to), from, on);
    } else {
      patch.store(to, load_if(on, from));
    }
  }
}

// Returns before the copies have landed: see cp_async_wait.
template <class T>
FC_DEVICE void stage_patch(const DepthwiseTile& t, const TileBlock& block, const T* source, const Strides& strides,
                           const Shared<T>& patch) {
  if (t.copy_bytes == 16) {
    copy_patch<T, 16>(t, block, source, strides, patch);
  } else if (t.copy_bytes == 4) {
    copy_patch<T, 4>(t, block, source, strides, patch);
  } else if constexpr (sizeof(T) < 4) {
    copy_patch<T, sizeof(T)>(t, block, source, strides, patch);
  }
  cp_async_commit();
}

}  // namespace fastconv::kernels
