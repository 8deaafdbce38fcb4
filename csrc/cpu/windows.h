// Windows as the vector pooling kernels see them. Which taps of a window lie inside the tensor is worked out once per
// plan and axis, so that kernels neither test borders nor divide. To them a tensor is `planes` planes of pixels of
// `pixel` elements: a sample and its channels in NHWC, a channel and one element in NCHW.
//
// pool_channels reads the tensor where it lies, vectors along a pixel. pool_rows has vectors along the rows, for pixels
// shorter than a vector: it copies the source rows of a band of output rows into scratch, as lines. Source pixels that
// are a stride apart are neighbours in a line (a row has `mul` of them), and so are outputs that use the same taps
// (phases: `div` lines a row), so that every load is of consecutive elements; planes too narrow to fill vectors lie
// side by side.
#pragma once

#include <string>
#include <vector>

#include "cpu/geometry.h"

namespace fastconv::cpu {

// The taps of one output on one axis that exist: `count` of them, the first is `tap` and reads `source`.
struct Span {
  int32_t source, tap, count;
  bool alike;  // of dgrad: the windows that it reads cover equally many elements
};

struct AxisWindows {
  const Span* spans;              // of every output
  const int32_t* covered;         // of every window: how many elements an average is taken of, as torch counts
  int64_t source_step, tap_step;  // from a tap of a span to the next
};

struct LineTap {
  int64_t at, tap;  // element of the row's lines that output 0 of the phase reads
};
struct LinePhase {
  int64_t first, count;  // of `line_taps`
};

struct WindowPooling {
  Pooling problem;
  int64_t planes, pixel;
  AxisWindows axis[3];
  int64_t tap_rows;       // of an output, at most
  const int64_t* places;  // tap -> pixels from a window's first tap
  bool stream;            // pool_channels: the result is too large to stay in cache, all of its vectors aligned
  bool whole_planes;      // a task is a plane (kernels/pool_planes.h): lines and bands mean nothing
  bool one_run;           // and a window is all of it
  bool beside;            // NCHW by pool_channels: a task is as many planes as a vector has lanes

  // Of pool_rows.
  int64_t group;          // planes side by side
  int64_t pitch, lead;    // pixels of a plane in a line, and of them before column 0
  int64_t line, row;      // elements of a line, and of the `mul` lines of a source row
  int64_t slots, rows;    // source slices and rows in scratch
  int64_t height, bands;  // output rows in a band, bands in a slice
  const LinePhase* phases;
  const LineTap* line_taps;
};

constexpr int64_t kLineOverrun = 64;  // elements: four vectors, computed past the end of a line and read by nobody

class WindowPlan {
 public:
  WindowPlan(const PoolProblem& problem, Pass pass);
  const WindowPooling& pooling() const { return pooling_; }

 private:
  void make_spans(int axis);
  void make_lines();
  void make_bands(int64_t bytes);

  WindowPooling pooling_{};
  std::vector<Span> spans_[3];
  std::vector<int32_t> covered_[3];
  std::vector<int64_t> places_;
  std::vector<LinePhase> phases_;
  std::vector<LineTap> line_taps_;
};

// One window over the whole plane (NCHW), which is a run of elements.
bool by_one_run(const PoolProblem& problem);

// Averages of planes by windows large or uneven enough that rows are better added up before columns, and by_one_run.
bool by_whole_planes(const PoolProblem& problem);

// Planes of NCHW so small that a vector of them lies side by side in cache, with windows that vectors along the rows
// make little of.
bool by_planes_beside(const PoolProblem& problem, Pass pass);

// Empty, or why not: axes so long, or rows of windows so large, that tables and scratch would not stay in cache.
std::string refuse_windows(const PoolProblem& problem, Pass pass);

}  // namespace fastconv::cpu
