// Depthwise convolution, and groups of four or eight channels to as many, on interleaved planes: sixteen channels of a
// band of rows are copied side by side into scratch that stays in cache, [vector of channels][row][pixel][lane],
// converted to the accumulator type and padded. Then lanes are channels in either layout, no output is at a border, and
// neighbours in memory are neighbours in the plane: for planes too small to fill vectors along their rows (NCHW), and
// for filters so large that most outputs are at a border or rows of one channel block collide in the cache (NHWC). A
// group lies in one vector, so that its sums are those of a depthwise convolution with several terms a tap: each the
// source vector with one channel of every group in all of the group's lanes.
#pragma once

#include "cpu/band.h"
#include "cpu/depthwise.h"

namespace fastconv::cpu {

struct Interleaved {
  AxisMap height, width;
  const PhaseAxis *rows_of, *columns_of;  // the phases of the two axes
  int64_t lead, pitch;                    // pixels: before source column 0, and of a padded row
  int64_t top, rows;                      // first source row of the band of output row 0; source rows of a band
  int64_t phase_rows, bands;              // rows of one phase in a band; bands in a plane
  int64_t taps;

  int64_t elements() const { return rows * pitch * kBlock; }  // of a band
  int64_t out_rows() const { return phase_rows * height.div; }
};

class InterleavedPlan {
 public:
  // As many rows to a band as take `most` pixels of scratch, source and outputs together; at least one.
  InterleavedPlan(const AxisMap (&axis)[3], int64_t most);
  InterleavedPlan(const InterleavedPlan&) = delete;
  const Interleaved& layout() const { return layout_; }

 private:
  Phases phases_;
  Interleaved layout_{};
};

// fprop or dgrad. A task is one band of one block of channels of one sample; before them, `interleaved_pack` packs the
// weights, a task a block: [tap][term][kBlock] and the bias, in the accumulator type.
struct InterleavedDepthwise {
  Correlation problem;
  int64_t channels, blocks, terms;  // terms: channels of a group
  const Interleaved* layout;
  void* packed;  // workspace
};

// wgrad. A task is a block of channels over some of the bands of all samples; with more than one split each writes its
// sums to the workspace, as the other depthwise kernels do.
struct InterleavedGradient {
  WeightGradient problem;
  int64_t channels, blocks, terms, splits;
  const Interleaved* layout;
};

}  // namespace fastconv::cpu
