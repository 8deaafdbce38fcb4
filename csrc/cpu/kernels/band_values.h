// Source bands (cpu/band.h) of single values, not blocks: [channel][row][pixel] in NCHW, [row][pixel][channel] in NHWC,
// so that filling one is a copy. A value is broadcast to the lanes, which are output channels.
#pragma once

#include "cpu/kernels/band_rows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

struct Grid {
  int64_t pixel, channel;  // elements of the band from one pixel, one channel, to the next
};

Grid grid_of(const Band& b, Layout layout, int64_t channels) {
  return layout == Layout::nchw ? Grid{1, b.elements / kBlock} : Grid{channels, 1};
}

// What pads a row other than zeros, from its own pixels.
template <class A>
void pad_values(const Band& b, A* row, int64_t channels) {
  const auto pad = [&](int64_t pixel) {
    const int64_t source = b.lead + padding_source(b.axis[2].pad_mode, b.axis[2].in, pixel - b.lead);
    for (int64_t c = 0; c < channels; ++c) row[pixel * channels + c] = row[source * channels + c];
  };
  for (int64_t pixel = 0; pixel < b.lead; ++pixel) pad(pixel);
  for (int64_t pixel = b.lead + b.axis[2].in; pixel < b.pixels; ++pixel) pad(pixel);
}

// Channels [first, first + channels) of one sample.
template <class A, class T>
void fill_values(const Band& b, Layout layout, A* buffer, const T* sample, int64_t first, int64_t channels,
                 const Strides& strides, int64_t d, int64_t band) {
  const AxisMap &depth = b.axis[0], &height = b.axis[1];
  const Grid grid = grid_of(b, layout, channels);
  const int64_t top = b.first_row + band * b.height * height.mul, count = least(b.axis[2].in, b.pixels - b.lead);
  const bool nchw = layout == Layout::nchw, pads = b.axis[2].pad_mode != PadMode::zeros;
  for (int64_t slot = 0; slot < b.slots; ++slot) {
    const int64_t base = b.slot_base[d % depth.div * b.slots + slot];
    if (base == kAbsentSlot) continue;
    const int64_t slice = padding_source(depth.pad_mode, depth.in, d / depth.div * depth.mul + base);
    for (int64_t i = 0; i < b.rows; ++i) {
      const int64_t row = padding_source(height.pad_mode, height.in, top + i);
      const bool inside = slice >= 0 && slice < depth.in && row >= 0 && row < height.in;
      A* to = buffer + (slot * b.rows + i) * b.pixels * grid.pixel;
      const T* from = sample + first * strides.c + slice * strides.at[0] + row * strides.at[1];
      if (nchw) {
        for (int64_t c = 0; c < channels; ++c) {
          if (inside) {
            copy(to + c * grid.channel + b.lead, from + c * strides.c, count);
            if (pads) pad_values(b, to + c * grid.channel, 1);
          } else {
            fill(to + c * grid.channel, b.pixels, A(0));
          }
        }
      } else if (!inside) {
        fill(to, b.pixels * channels, A(0));
      } else if (strides.at[2] == channels) {
        copy(to + b.lead * channels, from, count * channels);
      } else {
        copy_pixels(to + b.lead * channels, channels, from, strides.at[2], count, channels);
      }
      if (!nchw && pads) pad_values(b, to, channels);
    }
  }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
