// im2col, the textbook's way to a convolution as a GEMM: every window of x written out as a row, zeros where it lies on
// padding. A baseline (Chellapilla, Puri and Simard, 2006): the rows are filter-volume times as large as x, and the
// implicit GEMM (implicit_gemm.h) never writes them.
//
// A lane keeps its column and goes down the positions; lanes side by side write side by side. Traffic: x once (its
// repetitions from cache), the columns written.
#pragma once

#include "kernels/block.h"
#include "kernels/pack_params.h"

namespace fastconv::kernels {

template <class Unit>
FC_KERNEL(pack_threads, 1)
void im2col(const FC_GRID_CONSTANT Im2colParams p) {
  constexpr int warps = pack_threads / 32;
  int64_t index = blockIdx.x;
  const int unit = int(index % p.column_tiles) * 32 + int(threadIdx.x) % 32;
  index /= p.column_tiles;
  const int group = int(index % p.groups);
  const int64_t first = index / p.groups * im2col_positions + int(threadIdx.x) / 32;
  if (unit >= p.row_units) return;

  const AxisPhase axis[3] = {AxisPhase::fprop(p.axis[0]), AxisPhase::fprop(p.axis[1]), AxisPhase::fprop(p.axis[2])};
  const int extent[3] = {p.axis[0].source_extent, p.axis[1].source_extent, p.axis[2].source_extent};
  const Extents positions{{int(p.batch), axis[0].positions, axis[1].positions, axis[2].positions}};
  const int element = unit * p.unit_elements;
  Spot tap =
      p.channels_last
          ? tap_lattice<0>(axis, p.x_strides.axis, 1).spot(Position::at(element, tap_extents<0>(axis, p.channels)))
          : tap_lattice<1>(axis, p.x_strides.axis, p.x_strides.channel)
                .spot(Position::at(element, tap_extents<1>(axis, p.channels)));
  if (element >= p.row_elements) tap.move_outside();
  const Lattice<1> origins = position_lattice(axis, p.x_strides);
  const char* const x = static_cast<const char*>(p.x);
  Unit* const columns = static_cast<Unit*>(p.columns);
  const int64_t base = group * p.x_strides.group + tap.offset, element_bytes = int64_t(sizeof(Unit)) / p.unit_elements;
  Position position = Position::at(first, positions);
  const Position step = Position::at(warps, positions);
  for (int i = 0; i < im2col_positions && position.within(positions); i += warps) {
    const Spot spot = origins.spot(position);
    const Unit value = load_if(spot.inside(tap, extent), as<Unit>(x + (base + spot.offset) * element_bytes));
    store(columns + ((first + i) * p.groups + group) * p.row_units + unit, value);
    position.advance(step, positions);
  }
}

}  // namespace fastconv::kernels
