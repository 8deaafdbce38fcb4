// Bands: how the blocked convolution sees its source. A task copies the rows that a band of output rows needs into
// scratch that stays in cache, converted to the accumulator type and padded. After that everything is plain vector
// code without a border: whatever the dtype, stride, padding or dilation.
//
// The outputs of a row fall into phases: one for a forward window, `stride` of them for its transpose (dgrad), because
// outputs that far apart use the same taps. Within a phase, output i reads pixel i*step + tap.offset.
#pragma once

#include <string>
#include <vector>

#include "cpu/geometry.h"

namespace fastconv::cpu {

constexpr int64_t kBlock = 16;              // channels; a cache line of float
constexpr int64_t kOverrun = 8;             // pixels that a kernel may compute past the end of a row, and nobody reads
constexpr int64_t kBandBudget = 128 << 10;  // bytes: a band stays in L2, the rows in use in L1
constexpr int64_t kBandLimit = 4 << 20;

struct BandTap {
  int64_t offset;  // elements, from the buffer row of the output row
  int64_t tap;     // index in the window, (t * R + r) * S + s
};

struct BandPhase {
  int64_t first, count;  // its taps, in Band::taps
};

// What the kernels read; the arrays belong to BandPlan.
struct Band {
  AxisMap axis[3];
  int64_t lead;       // pixels before source column 0
  int64_t pixels;     // of a padded row
  int64_t row;        // elements of a padded row
  int64_t step;       // elements from one output of a phase to the next
  int64_t first_row;  // source row at the top of the band that starts with output row 0
  int64_t rows;       // source rows in a band
  int64_t slots;      // source slices that one output slice reads: depth taps
  int64_t elements;   // of a whole band
  int64_t height;     // rows of one phase in a band, so height * axis[1].div output rows
  int64_t bands;      // in an output slice
  int64_t taps_in_all;
  const BandPhase* phases;  // [axis[0].div][axis[1].div][axis[2].div]
  const BandTap* taps;
  const int64_t* slot_base;  // [axis[0].div][slots]: source slice of output slice d is d / div * mul + base
};

constexpr int64_t kAbsentSlot = INT64_MIN;

class BandPlan {
 public:
  // `bytes` an element of the buffer.
  BandPlan(const AxisMap (&axis)[3], int64_t bytes);
  const Band& band() const { return band_; }

 private:
  Band band_{};
  std::vector<BandPhase> phases_;
  std::vector<BandTap> taps_;
  std::vector<int64_t> slot_base_;
};

// Empty, or why these axes are not for bands (extents so large that a row of windows needs more than kBandLimit).
std::string refuse_band(const AxisMap (&axis)[3], int64_t bytes);

// A dense or grouped fprop or dgrad. A task is one band of one output slice of one group of one sample; before them,
// `blocked_pack` packs the weights, a task a block of output channels.
struct Blocked {
  Correlation problem;
  const Band* band;
  int64_t band_elements;  // of all the group's source channels
  void* packed;           // workspace
};

// wgrad. A task is a block of output channels of one group over some of the bands of all samples; with more than one
// split each writes its sums to the workspace, [split][element of gw].
struct BlockedGradient {
  WeightGradient problem;
  const Band* band;
  int64_t splits;
};

}  // namespace fastconv::cpu
