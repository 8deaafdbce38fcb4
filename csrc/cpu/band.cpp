#include "cpu/band.h"

#include <algorithm>

#include "fastconv/status.h"

namespace fastconv::cpu {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// The taps of outputs o = phase + div*i: source = i*mul + base. In order of base, so that neighbours come together.
struct AxisTap {
  int64_t base, tap;
};
std::vector<AxisTap> taps_of(const AxisMap& axis, int64_t phase) {
  std::vector<AxisTap> taps;
  for (int64_t t = 0; t < axis.taps; ++t) {
    const int64_t at = phase * axis.mul + axis.add + t * axis.step;
    if (floor_div(at, axis.div) * axis.div == at) taps.push_back({floor_div(at, axis.div), t});
  }
  if (axis.step < 0) std::reverse(taps.begin(), taps.end());
  return taps;
}

// Smallest and largest base over all phases (or a little more).
struct Reach {
  int64_t low, high;
};
Reach reach_of(const AxisMap& axis) {
  const int64_t far = (axis.taps - 1) * axis.step;
  return {floor_div(axis.add + std::min<int64_t>(far, 0), axis.div),
          floor_div((axis.div - 1) * axis.mul + axis.add + std::max<int64_t>(far, 0), axis.div)};
}

int64_t outputs_of(const AxisMap& axis) { return (axis.out + axis.div - 1) / axis.div; }  // of phase 0, the longest

int64_t rows_for(const AxisMap& axis, int64_t height) {
  const Reach reach = reach_of(axis);
  return (height - 1) * axis.mul + reach.high - reach.low + 1;
}

}  // namespace

std::string refuse_band(const AxisMap (&axis)[3], int64_t bytes) {
  // In doubles, because the extents may be anything that validation lets through.
  double elements = double(kBlock) * double(axis[0].taps);
  double phases = 1, taps = 1;
  for (int i = 0; i < 3; ++i) {
    const double window = double(axis[i].taps - 1) * double(axis[i].step < 0 ? -axis[i].step : axis[i].step);
    const double outputs = i == 2 ? double(axis[i].out) / double(axis[i].div) + kOverrun : 1;
    if (i > 0) elements *= window / double(axis[i].div) + outputs * double(axis[i].mul) + 2;
    phases *= double(axis[i].div), taps *= double(axis[i].taps);
  }
  if (elements * double(bytes) > double(kBandLimit))
    return concat("the rows under one row of windows take more than the ", kBandLimit >> 20,
                  " MiB of cache that a band may hold");
  if (phases > 4096 || taps > 65536) return "too many phases or taps to list";
  return "";
}

BandPlan::BandPlan(const AxisMap (&axis)[3], int64_t bytes) {
  Band& b = band_;
  for (int i = 0; i < 3; ++i) b.axis[i] = axis[i];
  const Reach columns = reach_of(axis[2]);
  b.lead = std::max<int64_t>(0, -columns.low);
  b.pixels = b.lead + std::max<int64_t>(1, columns.high + (outputs_of(axis[2]) - 1 + kOverrun) * axis[2].mul + 1);
  // What pads may lie anywhere in a row, which is read as a whole then.
  if (axis[2].pad_mode != PadMode::zeros) b.pixels = std::max(b.pixels, b.lead + axis[2].in);
  b.row = b.pixels * kBlock, b.step = axis[2].mul * kBlock;
  b.first_row = reach_of(axis[1]).low;
  for (int64_t d = 0; d < axis[0].div; ++d) b.slots = std::max(b.slots, int64_t(taps_of(axis[0], d).size()));
  // As many rows as fit the budget, then evened out over the bands.
  const int64_t row_bytes = b.slots * b.row * bytes, total = outputs_of(axis[1]);
  int64_t height = 1;
  while (height < total && rows_for(axis[1], height + 1) * row_bytes <= kBandBudget) ++height;
  b.bands = (total + height - 1) / height;
  b.height = (total + b.bands - 1) / b.bands;
  b.rows = rows_for(axis[1], b.height);
  b.elements = b.slots * b.rows * b.row;
  b.taps_in_all = axis[0].taps * axis[1].taps * axis[2].taps;

  for (int64_t d = 0; d < axis[0].div; ++d) {
    const auto depth = taps_of(axis[0], d);
    for (int64_t slot = 0; slot < b.slots; ++slot)
      slot_base_.push_back(slot < int64_t(depth.size()) ? depth[slot].base : kAbsentSlot);
    for (int64_t h = 0; h < axis[1].div; ++h) {
      for (int64_t w = 0; w < axis[2].div; ++w) {
        const auto columns = taps_of(axis[2], w);
        BandPhase phase{int64_t(taps_.size()), 0};
        for (size_t slot = 0; slot < depth.size(); ++slot)
          for (const AxisTap& r : taps_of(axis[1], h))
            for (const AxisTap& s : columns)
              taps_.push_back({(int64_t(slot) * b.rows + r.base - b.first_row) * b.row + (s.base + b.lead) * kBlock,
                               (depth[slot].tap * axis[1].taps + r.tap) * axis[2].taps + s.tap});
        phase.count = int64_t(taps_.size()) - phase.first;
        phases_.push_back(phase);
      }
    }
  }
  b.phases = phases_.data(), b.taps = taps_.data(), b.slot_base = slot_base_.data();
}

}  // namespace fastconv::cpu
