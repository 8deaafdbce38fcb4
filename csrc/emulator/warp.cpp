#include "emulator/warp.h"

namespace fastconv::emulator {
namespace {

struct ShuffleLane {
  uint64_t value, result;
  int source;  // the lane whose value this one takes
};

struct BallotLane {
  bool value;
  uint32_t result;
};

int source_lane(Shuffle kind, int lane, int operand) {
  switch (kind) {
    case Shuffle::index: return operand & 31;
    case Shuffle::exclusive_or: return (lane ^ operand) & 31;
    case Shuffle::down: return lane + operand < 32 ? lane + operand : lane;
    default: return lane - operand >= 0 ? lane - operand : lane;
  }
}

const char* name_of(Shuffle kind) {
  constexpr const char* names[] = {"shuffle", "shuffle_xor", "shuffle_down", "shuffle_up"};
  return names[int(kind)];
}

}  // namespace

uint64_t shuffle_bits(Shuffle kind, uint32_t mask, uint64_t value, int operand, Site site) {
  const int lane = self().lane, source = source_lane(kind, lane, operand);
  if (!(mask >> source & 1))
    fail(site, name_of(kind), " from lane ", source, ", which the mask ", hex(mask),
         " does not name: its value is undefined");
  ShuffleLane mine{value, 0, source};
  const auto finish = [](Collective& group) {
    for (uint32_t lanes = group.mask; lanes; lanes &= lanes - 1) {
      ShuffleLane& to = group.of<ShuffleLane>(__builtin_ctz(lanes));
      to.result = group.of<ShuffleLane>(to.source).value;
    }
  };
  self().block->collective(mask, name_of(kind), &mine, finish, site);
  return mine.result;
}

uint32_t ballot(uint32_t mask, bool value, Site site) {
  BallotLane mine{value, 0};
  const auto finish = [](Collective& group) {
    uint32_t votes = 0;
    for (uint32_t lanes = group.mask; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      votes |= uint32_t(group.of<BallotLane>(lane).value) << lane;
    }
    for (uint32_t lanes = group.mask; lanes; lanes &= lanes - 1)
      group.of<BallotLane>(__builtin_ctz(lanes)).result = votes;
  };
  self().block->collective(mask, "ballot", &mine, finish, site);
  return mine.result;
}

}  // namespace fastconv::emulator
