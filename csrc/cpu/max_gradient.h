// dgrad of max-pooling through tiles of gx that stay in cache: each output's gradient is added where it was won, for
// two planes in turn (NCHW), or sixteen channels, so that no addition waits for the one before. Where that is follows
// from the winning tap by vectors.
#pragma once

#include <string>
#include <vector>

#include "cpu/windows.h"

namespace fastconv::cpu {

struct MaxGradient {
  Pooling problem;
  bool every;              // no window lies beside the input: all have a winner
  bool sparse;             // windows apart from each other, gx nearly all zeros; a task is a plane or sample, in place
  bool stream, in_place;   // gx is too large to stay in cache; gx itself is the tile
  int64_t planes;          // NCHW: n * c
  int64_t group;           // a task is so many planes of all, or channels of a sample in NHWC
  const int32_t* origins;  // of every window of a plane: pixels
  const int64_t* places;   // tap -> pixels from a window's first tap
};

constexpr int64_t kTileChannels = 16;  // NHWC: a cache line of floats

class MaxGradientPlan {
 public:
  explicit MaxGradientPlan(const PoolProblem& problem);
  MaxGradientPlan(const MaxGradientPlan&) = delete;
  const MaxGradient& gradient() const { return gradient_; }
  int64_t tasks() const;

 private:
  MaxGradient gradient_{};
  WindowPlan windows_;
  std::vector<int32_t> origins_;
};

// Whether it is the way; else few taps of whole vectors of channels (kernels/pool_channels.cpp).
bool by_tiles(const PoolProblem& problem);

// Empty, or why not: planes of gx too large for scratch.
std::string refuse_max_gradient(const PoolProblem& problem);

}  // namespace fastconv::cpu
