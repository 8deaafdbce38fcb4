// Where everything lies in the scratch of the planar kernels (cpu/depthwise.h).
#include <algorithm>
#include <numeric>

#include "cpu/depthwise.h"
#include "fastconv/status.h"

namespace fastconv::cpu {
namespace {

constexpr int64_t kBudget = 20 << 10;  // bytes of source rows: they stay in L1 beside the output
constexpr int64_t kLimit = 4 << 20;

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

int64_t round_up(int64_t elements) { return (elements + 15) / 16 * 16; }  // whole cache lines of float

PhaseAxis phase_of(const AxisMap& axis, int64_t phase) {
  PhaseAxis p{axis.out > phase ? (axis.out - phase + axis.div - 1) / axis.div : 0, axis.mul, 0, 1, 0, 0, 1};
  for (int64_t t = 0; t < axis.taps; ++t) {
    const int64_t at = phase * axis.mul + axis.add + t * axis.step;
    if (floor_div(at, axis.div) * axis.div != at) continue;
    const int64_t source = floor_div(at, axis.div);
    if (p.taps == 0) p.first = source, p.tap = t;
    if (p.taps == 1) p.apart = source - p.first, p.tap_step = t - p.tap;
    ++p.taps;
  }
  if (p.apart < 0) {
    p.first += (p.taps - 1) * p.apart, p.tap += (p.taps - 1) * p.tap_step;
    p.apart = -p.apart, p.tap_step = -p.tap_step;
  }
  return p;
}

}  // namespace

Reach reach_of(const std::vector<PhaseAxis>& phases) {
  Reach reach{0, 0};
  bool any = false;
  for (const PhaseAxis& p : phases) {
    if (!p.taps || !p.outputs) continue;
    const int64_t high = p.first + (p.taps - 1) * p.apart;
    reach = any ? Reach{std::min(reach.low, p.first), std::max(reach.high, high)} : Reach{p.first, high};
    any = true;
  }
  return reach;
}

Phases::Phases(const AxisMap (&axes)[3]) {
  for (int i = 0; i < 3; ++i)
    for (int64_t phase = 0; phase < axes[i].div; ++phase) axis[i].push_back(phase_of(axes[i], phase));
}

std::string refuse_phases(const AxisMap (&axis)[3]) {
  double phases = 1, taps = 1;
  for (const AxisMap& each : axis) phases *= double(each.div), taps *= double(each.taps);
  return phases > 4096 || taps > 65536 ? "too many phases or taps to list" : "";
}

std::string refuse_planar(const AxisMap (&axis)[3], int64_t bytes) {
  // In doubles, because the extents may be anything that validation lets through.
  double elements = double(axis[0].taps);
  for (int i = 1; i < 3; ++i) {
    const double window = double(axis[i].taps - 1) * double(axis[i].step < 0 ? -axis[i].step : axis[i].step);
    const double outputs = i == 2 ? double(axis[i].out) / double(axis[i].div) : 1;
    elements *= window / double(axis[i].div) + outputs * double(axis[i].mul) + 2;
  }
  if (elements * double(bytes) > double(kLimit))
    return concat("the rows under one row of windows take more than the ", kLimit >> 20, " MiB that a band may hold");
  return refuse_phases(axis);
}

PlanarPlan::PlanarPlan(const AxisMap (&axis)[3], int64_t bytes) : phases_(axis) {
  Planar& b = planar_;
  for (int i = 0; i < 3; ++i) b.axis[i] = axis[i], b.phase[i] = phases_.axis[i].data();
  const Reach columns = reach_of(phases_.axis[2]), rows = reach_of(phases_.axis[1]);
  const int64_t wide = axis[2].mul, outputs = phases_.axis[2][0].outputs, total = phases_.axis[1][0].outputs;
  b.lead = round_up(std::max<int64_t>(0, -floor_div(columns.low, wide)));
  b.line = round_up(b.lead + std::max<int64_t>(0, floor_div(columns.high + (outputs - 1) * wide, wide)) + 1);
  // What pads may lie anywhere in a row, which is read as a whole then.
  if (axis[2].pad_mode != PadMode::zeros) b.line = std::max(b.line, b.lead + round_up((axis[2].in + wide - 1) / wide));
  b.row = b.line * wide, b.top = rows.low, b.out_line = round_up(outputs);
  for (const PhaseAxis& depth : phases_.axis[0]) b.slots = std::max(b.slots, depth.taps);
  // As many rows as fit the budget, then evened out over the bands.
  const auto rows_for = [&](int64_t height) { return (height - 1) * axis[1].mul + rows.high - rows.low + 1; };
  int64_t height = 1;
  while (height < total && b.slots * rows_for(height + 1) * b.row * bytes <= kBudget) ++height;
  b.bands = (total + height - 1) / height;
  b.height = (total + b.bands - 1) / b.bands;
  b.rows = rows_for(b.height);
  b.elements = b.slots * b.rows * b.row + kSlack;
  b.taps = axis[0].taps * axis[1].taps * axis[2].taps;
  int64_t apart = 1;
  for (const PhaseAxis& each : phases_.axis[1])
    if (each.taps > 1) apart = each.apart;
  const int64_t common = std::gcd(apart, axis[1].mul), classes = axis[1].mul / common;
  b.share = apart / common, b.next = b.share * axis[1].mul * b.row;

  for (const PhaseAxis& d : phases_.axis[0])
    for (const PhaseAxis& h : phases_.axis[1])
      for (const PhaseAxis& w : phases_.axis[2]) {
        PlanarPhase phase{int64_t(strips_.size()), 0, int64_t(weights_.size()), int64_t(columns_.size()), w.taps};
        for (int64_t s = 0; s < w.taps; ++s) {
          const int64_t column = w.first + s * w.apart, along = floor_div(column, wide);
          columns_.push_back((column - along * wide) * b.line + b.lead + along);
        }
        for (int64_t slot = 0; slot < d.taps && w.taps; ++slot)
          for (int64_t j = 0; j < std::min(classes, h.taps); ++j) {
            strips_.push_back({(slot * b.rows + h.first + j * apart - b.top) * b.row, (h.taps - j - 1) / classes + 1});
            for (int64_t r = j; r < h.taps; r += classes)
              for (int64_t s = 0; s < w.taps; ++s)
                weights_.push_back(((d.tap + slot * d.tap_step) * axis[1].taps + h.tap + r * h.tap_step) *
                                       axis[2].taps +
                                   w.tap + s * w.tap_step);
          }
        phase.strips = int64_t(strips_.size()) - phase.first_strip;
        listed_.push_back(phase);
      }
  b.phases = listed_.data(), b.strips = strips_.data();
  b.columns = columns_.data(), b.weights = weights_.data();
}

}  // namespace fastconv::cpu
