#include "fastconv/plan.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "planner/aten.h"

namespace fastconv {
namespace {

template <class Problem>
const std::vector<Kernel<Problem>>& table();
template <>
const std::vector<Kernel<ConvProblem>>& table<ConvProblem>() {
  return conv_kernels();
}
template <>
const std::vector<Kernel<PoolProblem>>& table<PoolProblem>() {
  return pool_kernels();
}
template <>
const std::vector<Kernel<SeparableProblem>>& table<SeparableProblem>() {
  return separable_kernels();
}

int64_t& batch_of(ConvProblem& problem) { return problem.n; }
int64_t& batch_of(PoolProblem& problem) { return problem.n; }
int64_t& batch_of(SeparableProblem& problem) { return problem.depthwise.n; }

std::string human(double value, const char* unit) {
  const char* prefixes[] = {"", "k", "M", "G", "T", "P"};
  int prefix = 0;
  while (value >= 1000 && prefix < 5) value /= 1000, ++prefix;
  char text[64];
  snprintf(text, sizeof text, prefix ? "%.2f %s%s" : "%.0f %s%s", value, prefixes[prefix], unit);
  return text;
}

template <class Problem>
const Kernel<Problem>* find(const std::string& name) {
  for (const auto& kernel : table<Problem>())
    if (name == kernel.name) return &kernel;
  return nullptr;
}

template <class Problem>
void require_known(const std::string& name) {
  if (name.empty() || find<Problem>(name)) return;
  std::string known;
  for (const auto& kernel : table<Problem>()) known += concat(known.empty() ? "" : ", ", kernel.name);
  throw InvalidArgument(concat("kernel: '", name, "' is not in this backend's table (", known, ")"));
}

std::string refuse_padding(const Kernel<PoolProblem>&, const PoolProblem&) { return ""; }
std::string refuse_padding(const Kernel<SeparableProblem>&, const SeparableProblem&) { return ""; }
std::string refuse_padding(const Kernel<ConvProblem>& kernel, const ConvProblem& problem) {
  if (kernel.pads_by_map || problem.pad_mode == PadMode::zeros) return "";
  return concat("pads with zeros, not by ", name_of(problem.pad_mode));
}

template <class Problem>
std::string refusal(const Kernel<Problem>& kernel, const Problem& problem, Pass pass, const PlanOptions& options) {
  auto reason = refuse_padding(kernel, problem);
  return reason.empty() ? kernel.refuse(problem, pass, options) : reason;
}

// The family that would be chosen for the reference batch; null where the bits of a sample are not promised (wgrad sums
// over the batch), or where that choice has no family.
template <class Problem>
const char* family_of(Problem problem, Pass pass, const PlanOptions& options) {
  if (pass != Pass::fprop && pass != Pass::dgrad) return nullptr;
  if (int64_t& n = batch_of(problem); n > 0) n = kReferenceBatch;
  const Kernel<Problem>* best = nullptr;
  double least = 0;
  for (const auto& kernel : table<Problem>()) {
    if (!refusal(kernel, problem, pass, options).empty()) continue;
    const double cost = kernel.cost(problem, pass, options).microseconds;
    if (!best || cost < least) best = &kernel, least = cost;
  }
  return best ? best->family : nullptr;
}

}  // namespace

std::string describe_epilogue(const PlanOptions& options) {
  const bool active = options.activation != Activation::none;
  if (!options.bias && !options.residual && !active) return "";
  const std::string sum = concat("conv", options.bias ? " + bias" : "", options.residual ? " + residual" : "");
  return concat("y = ", active ? concat(name_of(options.activation), "(", sum, ")") : sum);
}

template <class Problem>
std::vector<Candidate> candidates(const Problem& problem, Pass pass, const PlanOptions& options) {
  require_known<Problem>(options.kernel);
  std::vector<Candidate> found;
  for (const auto& kernel : table<Problem>()) {
    Candidate candidate{kernel.name, false, "", {}, kernel.family ? kernel.family : ""};
    if (!options.kernel.empty() && options.kernel != kernel.name) {
      candidate.reason = concat("kernel='", options.kernel, "' was asked for");
    } else {
      candidate.reason = refusal(kernel, problem, pass, options);
    }
    candidate.accepted = candidate.reason.empty();
    if (candidate.accepted) candidate.cost = kernel.cost(problem, pass, options);
    found.push_back(std::move(candidate));
  }
  return found;
}

template <class Problem>
Plan<Problem> make_plan(const Problem& problem, Pass pass, const PlanOptions& options) {
  Plan<Problem> plan{problem, pass, options, "", "", "", {}, candidates(problem, pass, options), {}};
  std::vector<Candidate*> order;
  for (auto& candidate : plan.candidates)
    if (candidate.accepted) order.push_back(&candidate);
  const char* family = options.kernel.empty() ? family_of(problem, pass, options) : nullptr;
  const auto outside = [&](const Candidate* candidate) { return family != nullptr && candidate->family != family; };
  std::stable_sort(order.begin(), order.end(), [&](auto* a, auto* b) {
    return std::pair(outside(a), a->cost.microseconds) < std::pair(outside(b), b->cost.microseconds);
  });
  if (!order.empty()) plan.unpinned = order.front()->kernel;
  std::stable_partition(order.begin(), order.end(),
                        [&](auto* candidate) { return candidate->kernel == options.pinned; });
  for (Candidate* candidate : order) {
    const auto* kernel = find<Problem>(candidate->kernel);
    if (kernel->prepare) plan.prepared = kernel->prepare(problem, pass, options);
    if (options.workspace_limit >= 0 && plan.prepared.workspace_bytes > options.workspace_limit) {
      candidate->accepted = false;
      candidate->reason = concat("needs ", plan.prepared.workspace_bytes, " bytes of workspace, the limit is ",
                                 options.workspace_limit);
      plan.prepared = {};
      continue;
    }
    plan.kernel = candidate->kernel;
    plan.cost = candidate->cost;
    for (const Candidate* other : order)
      if (other->accepted && other != candidate && plan.runner_up.empty()) plan.runner_up = other->kernel;
    return plan;
  }
  std::string reasons;
  for (const auto& candidate : plan.candidates)
    if (options.kernel.empty() || options.kernel == candidate.kernel)
      reasons += concat("\n  ", candidate.kernel, ": ", candidate.reason);
  throw InvalidArgument(concat("kernel: no kernel accepts ", name_of(pass), " of ", problem.describe(), reasons));
}

template <class Problem>
std::string Plan<Problem>::explain() const {
  std::string page = concat(name_of(pass), " of ", problem.describe(), "\n");
  const double flops = problem.flops(pass), bytes = problem.bytes(pass);
  char intensity[32];
  snprintf(intensity, sizeof intensity, "%.1f", bytes > 0 ? flops / bytes : 0.0);
  if (const std::string epilogue = describe_epilogue(options); !epilogue.empty())
    page += concat("  epilogue  ", epilogue, "\n");
  page += concat("  work      ", human(flops, "FLOP"), ", at least ", human(bytes, "B"), " of traffic: ", intensity,
                 " FLOP/B\n  candidates\n");
  for (const auto& candidate : candidates) {
    char line[64];
    snprintf(line, sizeof line, "    %-22s ", candidate.kernel.c_str());
    page += line;
    if (!candidate.accepted) {
      page += "refused: " + candidate.reason;
    } else if (candidate.cost.microseconds >= last_resort_microseconds) {
      page += "accepted, the last resort";
    } else {
      const Cost& cost = candidate.cost;
      snprintf(line, sizeof line, "accepted, predicted %.1f us", cost.microseconds);
      page += line;
      if (cost.blocks_per_sm > 0) {
        page += concat(": DRAM ", human(cost.bytes, "B"), ", L2 ", human(cost.l2_bytes, "B"), ", ");
        snprintf(line, sizeof line, "%.0f cycles, %.0f waves, %d blocks an SM", cost.cycles, cost.waves,
                 cost.blocks_per_sm);
        page += line;
      }
    }
    page += "\n";
  }
  const bool pinned = kernel == options.pinned;
  if (pinned) page += concat("  pinned    the planner's own choice is ", unpinned, "\n");
  const char* family = find<Problem>(kernel)->family;
  if (family && options.kernel.empty() && !pinned && pass != Pass::wgrad)
    page += concat("  family    ", family, ", chosen for a batch of ", kReferenceBatch,
                   ": a sample's bits do not depend on the batch it comes in\n");
  page += concat("  choice    ", kernel);
  if (!prepared.detail.empty()) page += concat(" (", prepared.detail, ")");
  page += concat(", workspace ", human(double(prepared.workspace_bytes), "B"), "\n");
  return runner_up.empty() ? page : page + concat("  runner-up ", runner_up, "\n");
}

template std::vector<Candidate> candidates(const ConvProblem&, Pass, const PlanOptions&);
template std::vector<Candidate> candidates(const PoolProblem&, Pass, const PlanOptions&);
template std::vector<Candidate> candidates(const SeparableProblem&, Pass, const PlanOptions&);
template Plan<ConvProblem> make_plan(const ConvProblem&, Pass, const PlanOptions&);
template Plan<PoolProblem> make_plan(const PoolProblem&, Pass, const PlanOptions&);
template Plan<SeparableProblem> make_plan(const SeparableProblem&, Pass, const PlanOptions&);
template struct Plan<ConvProblem>;
template struct Plan<PoolProblem>;
template struct Plan<SeparableProblem>;

}  // namespace fastconv
