// From problem to plan. A backend is a table of kernels; planning is the same for all of them (planner/plan.cpp):
// every entry accepts or refuses WITH a reason, accepted ones carry a cost, the cheapest is prepared once and then run
// any number of times. Where a result of one sample must not depend on its batch, the cheapest family of kernels is
// that for a batch of kReferenceBatch; only within the family does the real batch decide.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "fastconv/activation.h"
#include "fastconv/problem.h"

namespace fastconv {

constexpr int64_t kReferenceBatch = 32;

struct PlanOptions {
  std::string kernel;            // only this entry of the table; empty: the cheapest
  std::string pinned;            // this entry whatever its cost, unless it refuses; empty: none
  int64_t workspace_limit = -1;  // bytes; negative: no limit
  int threads = 0;               // CPU backend: threads to use at most; 0: the OpenMP default
  int device = 0;                // CUDA backend: device ordinal
  Math math = Math::ieee;        // conv in float32
  // conv fprop: the epilogue, y = activation(conv + bias[K] + residual), where residual is a tensor like y; dgrad, a
  // transposed convolution: bias[C] alone.
  bool bias = false, residual = false;
  Activation activation = Activation::none;
  double slope = 0.01;   // of leaky_relu below zero
  bool offsets = false;  // max-pool fprop: store the winning taps
  bool indices = false;  // max-pool fprop: store torch's int64 plane indices
};

// What a kernel would take, as its own model sees it. Microseconds decide; the rest explains them. Zero: not modelled.
struct Cost {
  double microseconds = 0;
  double flops = 0;     // padding of the tiles included
  double bytes = 0;     // to and from DRAM
  double l2_bytes = 0;  // between L2 and the SMs
  double cycles = 0;    // that the busiest SM's tensor cores, or CUDA cores, are at work, at their peak
  double blocks = 0, waves = 0;
  int registers = 0, blocks_per_sm = 0;  // of a thread; resident at once
  double occupancy = 0;                  // resident threads, of the most that an SM holds
  const char* occupancy_limit = "";      // what is used up first
};

// Addresses as they come from Python. conv: (a, b) is (x, w) in fprop, (gy, w) in dgrad, (x, gy) in wgrad, (gy, null)
// in bgrad. `bias` and `residual` may be null; the bias has the output's channels: K in fprop, C in dgrad.
struct ConvArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;
  const void* residual = nullptr;
  void* out = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

// `bias` and `residual` are y's; those that are absent are null.
struct SeparableArgs {
  const void *x = nullptr, *depthwise_weight = nullptr, *depthwise_bias = nullptr;
  const void *pointwise_weight = nullptr, *bias = nullptr, *residual = nullptr;
  void* out = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

// src is x, gy or ggx; dst is y, gx or ggy. `offsets` (uint8 or int32, as PoolProblem::offset_bytes says) is written by
// max fprop and read by max dgrad and gather; `indices` (int64) are written by max fprop and read by unpool and pick.
// Both have y's shape and layout.
struct PoolArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  void* offsets = nullptr;
  int64_t* indices = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

template <class Problem>
struct args_of;
template <>
struct args_of<ConvProblem> {
  using type = ConvArgs;
};
template <>
struct args_of<PoolProblem> {
  using type = PoolArgs;
};
template <>
struct args_of<SeparableProblem> {
  using type = SeparableArgs;
};

// In words, "y = relu(conv + bias)"; empty where it is just y = conv.
std::string describe_epilogue(const PlanOptions& options);
// What a kernel that cannot do the epilogue gives as its reason; empty if nothing beyond the bias is asked of it.
inline std::string refuse_epilogue(const PlanOptions& options) {
  if (!options.residual && options.activation == Activation::none) return "";
  return "adds no residual and applies no activation";
}

// A kernel made ready for one problem: everything that does not depend on addresses is computed here, once.
template <class Problem>
struct Prepared {
  std::function<void(const typename args_of<Problem>::type&)> launch;
  int64_t workspace_bytes = 0;
  std::string detail;  // for people: tile, grid, split, threads
};

// One line of a backend's table.
template <class Problem>
struct Kernel {
  const char* name;
  const char* summary;  // one line, for `python -m fastconv info`
  // Why not, in words; empty: accepted.
  std::string (*refuse)(const Problem&, Pass, const PlanOptions&);
  Cost (*cost)(const Problem&, Pass, const PlanOptions&);
  // Null for "aten": the caller runs PyTorch's own operator (the core knows nothing of torch); and for "two_launches"
  // of a separable convolution: the caller plans and runs its two parts.
  Prepared<Problem> (*prepare)(const Problem&, Pass, const PlanOptions&);
  // Kernels of one family add up in the same order, so they give the same bits. Null: of none.
  const char* family = nullptr;
  bool pads_by_map = false;  // conv: takes every padding mode; else zeros alone
};

struct Candidate {
  std::string kernel;
  bool accepted = false;
  std::string reason;  // why refused; empty when accepted
  Cost cost;           // zero when refused
  std::string family;  // as its Kernel has it; empty: none
};

template <class Problem>
struct Plan {
  Problem problem;
  Pass pass;
  PlanOptions options;
  std::string kernel;
  std::string runner_up;  // what would run without it; empty: nothing else accepts
  std::string unpinned;   // what would run without options.pinned
  Cost cost;
  std::vector<Candidate> candidates;
  Prepared<Problem> prepared;

  bool is_aten() const { return !prepared.launch; }
  std::string explain() const;  // a page: the problem, its floor, every candidate, the choice
};

// Throws InvalidArgument if options.kernel is unknown or refuses the problem (the reason is in the message).
template <class Problem>
std::vector<Candidate> candidates(const Problem& problem, Pass pass, const PlanOptions& options);
template <class Problem>
Plan<Problem> make_plan(const Problem& problem, Pass pass, const PlanOptions& options);

// The face of a backend: each of csrc/cpu and csrc/planner/gpu (compiled for CUDA and for the emulator) defines these.
struct BackendInfo {
  std::string name;
  bool available = false;
  std::string reason;  // why not available; empty otherwise
  std::vector<std::string> devices;
  std::map<std::string, std::string> details;  // architectures, instruction sets, versions: what `info` prints
};

BackendInfo backend_info();
const std::vector<Kernel<ConvProblem>>& conv_kernels();
const std::vector<Kernel<PoolProblem>>& pool_kernels();
const std::vector<Kernel<SeparableProblem>>& separable_kernels();

}  // namespace fastconv
