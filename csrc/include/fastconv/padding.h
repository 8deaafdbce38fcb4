// What padding other than zeros holds: the one place that maps coordinates of a padded input to the input's own, on the
// host and in kernels.
#pragma once

#include "fastconv/problem.h"

namespace fastconv {

// Zeros are nowhere in the input. Beyond the padding, which nobody reads, of the other modes: the nearest element.
template <class Int>
#if defined(__CUDACC__)
__host__ __device__
#endif
    inline Int padding_source(PadMode mode, Int extent, Int at) {
  if (mode == PadMode::zeros) return at;
  const Int last = extent - 1;
  if (mode == PadMode::reflect) at = at < 0 ? -at : at > last ? 2 * last - at : at;
  if (mode == PadMode::circular) at = at < 0 ? at + last + 1 : at > last ? at - last - 1 : at;
  const Int low = at < 0 ? 0 : at;
  return low > last ? last : low;
}

}  // namespace fastconv
