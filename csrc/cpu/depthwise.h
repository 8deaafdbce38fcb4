// Depthwise convolution: one filter a channel. Each layout has kernels of its own, because the lanes of a vector must
// lie side by side in memory: "planar" ones for NCHW (lanes along the width), "pixel" ones for NHWC (lanes are
// channels).
//
// The outputs of an axis fall into phases: one for a forward window, `stride` of them for its transpose (dgrad),
// because outputs that far apart use the same taps. So no kernel ever multiplies by the zeros that a transposed stride
// inserts.
#pragma once

#include <string>
#include <vector>

#include "cpu/band.h"

namespace fastconv::cpu {

// One phase of one axis: its output i is output `phase + i*div` of the axis, and its t-th tap (t < taps) reads source
// `first + i*mul + t*apart` through tap `tap + t*tap_step` of the filter: in the order of the source.
struct PhaseAxis {
  int64_t outputs, mul, first, apart, taps, tap, tap_step;
};

// All phases of the three axes.
struct Phases {
  std::vector<PhaseAxis> axis[3];
  explicit Phases(const AxisMap (&axis)[3]);
};

// The lowest source that any phase reads, and the highest that any output 0 does.
struct Reach {
  int64_t low, high;
};
Reach reach_of(const std::vector<PhaseAxis>& phases);

// Empty, or why: extents so large that the phases cannot be listed.
std::string refuse_phases(const AxisMap (&axis)[3]);

// Filter rows that read the source rows of each other's outputs: row m of output i reads what row m-1 of output
// i + Planar::share does. `offset`: elements, from the scratch row of a band's output 0 to that of the strip's row 0.
struct Strip {
  int64_t offset, rows;
};

struct PlanarPhase {
  int64_t first_strip, strips;
  int64_t first_weight;           // a strip has rows * columns of them, one strip after the other
  int64_t first_column, columns;  // of the filter
};

// NCHW. A task copies the source rows that a band of output rows needs into scratch that stays in L1: converted to the
// accumulator type, padded, and with each row split into `mul` lines by its columns' residue modulo the column step, so
// that neighbouring outputs read neighbours whatever the stride.
struct Planar {
  AxisMap axis[3];
  const PhaseAxis* phase[3];
  int64_t lead, line;                  // of a line: elements before source column 0, and in all
  int64_t row, rows, slots, elements;  // elements of a scratch row, rows of a slice, slices, elements in all
  int64_t top;                         // source row at the top of the band that starts with output row 0
  int64_t height, bands;               // rows of one phase in a band, bands in an output slice
  int64_t share, next;                 // `next`: elements from one row of a strip to the next
  int64_t out_line;                    // elements of one phase of an output row, in scratch
  int64_t taps;
  const PlanarPhase* phases;  // [axis[0].div][axis[1].div][axis[2].div]
  const Strip* strips;
  const int64_t* columns;  // offset of a column's source from output 0's line
  const int64_t* weights;  // taps of the filter, in the order of use
};

constexpr int64_t kSlack = 64;  // elements that a vector may read or write past the end of a scratch line

class PlanarPlan {
 public:
  // `bytes` an element of scratch.
  PlanarPlan(const AxisMap (&axis)[3], int64_t bytes);
  PlanarPlan(const PlanarPlan&) = delete;
  const Planar& planar() const { return planar_; }

 private:
  Phases phases_;
  Planar planar_{};
  std::vector<PlanarPhase> listed_;
  std::vector<Strip> strips_;
  std::vector<int64_t> columns_, weights_;
};

// Empty, or why not.
std::string refuse_planar(const AxisMap (&axis)[3], int64_t bytes);

// fprop or dgrad, NCHW. A task is one band of one output slice of one plane.
struct PlanarDepthwise {
  Correlation problem;
  int64_t channels, multiplier;  // of the output; source channel = channel / multiplier
  const Planar* planar;
};

// The channels of NHWC, a few at a time, so that the rows that overlapping windows read again are still in cache. The
// last chunk takes what is left of the channels besides its own: none is too short for a vector.
struct Chunks {
  int64_t size, count;
  int64_t first(int64_t i) const { return i * size; }
  int64_t last(int64_t i, int64_t channels) const { return i == count - 1 ? channels : (i + 1) * size; }
};

// Chunks of about `most` channels, whole cache lines of them.
Chunks chunks_of(int64_t channels, int64_t most);

// fprop or dgrad, NHWC. A task is one output row of a chunk of channels; before them, `pixel_pack` packs the weights, a
// task a block of channels: [vector][tap and bias][lane], in the accumulator type.
struct PixelDepthwise {
  Correlation problem;
  int64_t channels, multiplier, taps;
  Chunks chunks;
  bool stream;  // past the caches
  bool ahead;   // asks for pixels before their turn
  const PhaseAxis* phase[3];
  void* packed;  // workspace
};

// wgrad, NCHW. A task is a filter, over some of the bands of its planes; with more than one split each writes its sums
// to the workspace, [split][filter][tap], and a second stage adds them in order.
struct PlanarGradient {
  WeightGradient problem;
  int64_t channels, multiplier, splits;
  const Planar* planar;
};

// wgrad, NHWC. A task is a chunk of channels over some of the output rows of all samples.
struct PixelGradient {
  WeightGradient problem;
  int64_t channels, multiplier, taps, splits;
  Chunks chunks;
  bool ahead;
  const PhaseAxis* phase[3];
};

// The second stage; a task is a filter.
struct GradientSum {
  DType dtype;
  int64_t channels, taps, splits;
  const void* partial;
  void* gw;
};

}  // namespace fastconv::cpu
