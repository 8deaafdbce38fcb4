// What padding other than zeros holds: the one place that maps coordinates of a padded input to the input's own.
#pragma once

#include "device/device.h"
#include "fastconv/problem.h"

namespace fastconv::kernels {

using namespace fastconv::device;

// Zeros are nowhere in the input. Beyond the padding, which nobody reads, of the other modes: the nearest element.
FC_DEVICE int padding_source(PadMode mode, int extent, int at) {
  if (mode == PadMode::zeros) return at;
  const int last = extent - 1;
  if (mode == PadMode::reflect) at = at < 0 ? -at : at > last ? 2 * last - at : at;
  if (mode == PadMode::circular) at = at < 0 ? at + last + 1 : at > last ? at - last - 1 : at;
  return min(max(at, 0), last);
}

}  // namespace fastconv::kernels
