// Bands: how the fast CPU kernels see a tensor. A task copies the rows that a band of output rows needs into scratch
// that stays in cache: converted to the accumulator type, padded, and with kBlock channels side by side in each pixel
// whatever the layout of the tensor (NCHW is transposed on the way in and on the way out). After that everything is
// plain vector code, lanes = channels, without a border: whatever the dtype, stride, padding or dilation. A depthwise
// convolution or a pooling does the same to every channel, so a block is any kBlock of the N*C planes in NCHW, and
// kBlock channels of a sample in NHWC.
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
  int64_t run;           // the taps come in runs of this many, in consecutive pixels: 1, 2, 3, 5 or 7
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

// Where planes live. A block is kBlock planes in NCHW (across samples), kBlock channels of one sample in NHWC.
struct Planes {
  Layout layout;
  int64_t n, channels, multiplier;  // `channels` of the output side; source channel = channel / multiplier
  int64_t blocks_per_sample() const { return (channels + kBlock - 1) / kBlock; }
  int64_t blocks() const {
    return layout == Layout::nchw ? (n * channels + kBlock - 1) / kBlock : n * blocks_per_sample();
  }
};

// A depthwise wgrad. A task is some of the channel blocks, over some of the bands of all samples; with more than one
// split each writes its sums to the workspace, and a second stage adds them in order.
struct DepthwiseGradient {
  WeightGradient problem;
  Planes planes;  // of one sample: n is 1
  const Band* band;
  int64_t groups, splits;  // tasks = groups * splits
};

// A dense or grouped fprop or dgrad. A task is one band of one output slice of one group of one sample; before them,
// `blocked_pack` packs the weights, a task a block of output channels.
struct Blocked {
  Correlation problem;
  const Band* band;
  int64_t band_elements;  // of all the group's source channels
  void* packed;           // workspace
};

}  // namespace fastconv::cpu
