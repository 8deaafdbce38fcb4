// What a developer chooses: from Python (controls.cpp) or, for whole test runs, from the environment.
#pragma once

#include <cstdint>
#include <string>

namespace fastconv::emulator {

enum class Schedule : uint8_t { forward, reverse, random };
enum class Poison : uint8_t { nan, garbage };

struct Settings {
  // Which thread that can run, does: the first, the last, or any. Blocks are taken in the same order.
  Schedule schedule = Schedule::forward;  // FASTCONV_EMULATOR_SCHEDULE = forward | reverse | random
  uint64_t seed = 0;                      // FASTCONV_EMULATOR_SEED
  // What uninitialised shared memory holds. NaN spreads through arithmetic, but fmaxf swallows it: garbage is finite.
  Poison poison = Poison::nan;  // FASTCONV_EMULATOR_POISON = nan | garbage
  bool race_check = false;      // FASTCONV_EMULATOR_RACE_CHECK = 0 | 1
  bool count = true;            // FASTCONV_EMULATOR_COUNT = 0 | 1: memory counters
  int threads = 0;              // FASTCONV_EMULATOR_THREADS: OS threads for the blocks of a grid; 0: all cores
  // Only so many blocks of each grid, the first in the schedule's order; 0: all. For grids too large to run, whose far
  // end is what matters.
  int64_t blocks = 0;
};

// The settings of launches from now on. Guarded by a mutex; the first call reads the environment and throws
// InvalidArgument on a value it does not know.
Settings settings();
void set_settings(const Settings& settings);

Schedule parse_schedule(const std::string& name);
Poison parse_poison(const std::string& name);
const char* name_of(Schedule schedule);
const char* name_of(Poison poison);

}  // namespace fastconv::emulator
