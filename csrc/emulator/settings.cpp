#include "emulator/settings.h"

#include <cstdlib>
#include <mutex>

#include "fastconv/status.h"

namespace fastconv::emulator {
namespace {

// The value of an environment variable if it is set, parsed; errors name the variable.
template <class T, class Parse>
void from_environment(const char* name, T& value, Parse parse) {
  const char* text = std::getenv(name);
  if (!text || !*text) return;
  try {
    value = T(parse(text));
  } catch (const std::exception& error) {
    throw InvalidArgument(concat(name, ": ", error.what()));
  }
}

int64_t parse_count(const std::string& text) {
  size_t used = 0;
  int64_t value = -1;
  try {
    value = std::stoll(text, &used);
  } catch (const std::exception&) {
  }
  require(value >= 0 && used == text.size(), "expected a non-negative integer, got '", text, "'");
  return value;
}

Settings read_environment() {
  Settings chosen;
  from_environment("FASTCONV_EMULATOR_SCHEDULE", chosen.schedule, parse_schedule);
  from_environment("FASTCONV_EMULATOR_POISON", chosen.poison, parse_poison);
  from_environment("FASTCONV_EMULATOR_SEED", chosen.seed, parse_count);
  from_environment("FASTCONV_EMULATOR_RACE_CHECK", chosen.race_check, parse_count);
  from_environment("FASTCONV_EMULATOR_COUNT", chosen.count, parse_count);
  from_environment("FASTCONV_EMULATOR_THREADS", chosen.threads, parse_count);
  return chosen;
}

std::mutex mutex;

Settings& current() {
  static Settings settings = read_environment();
  return settings;
}

}  // namespace

Settings settings() {
  const std::lock_guard lock(mutex);
  return current();
}

void set_settings(const Settings& settings) {
  const std::lock_guard lock(mutex);
  current() = settings;
}

Schedule parse_schedule(const std::string& name) {
  for (Schedule schedule : {Schedule::forward, Schedule::reverse, Schedule::random})
    if (name == name_of(schedule)) return schedule;
  throw InvalidArgument(concat("schedule: expected forward, reverse or random, got '", name, "'"));
}

Poison parse_poison(const std::string& name) {
  for (Poison poison : {Poison::nan, Poison::garbage})
    if (name == name_of(poison)) return poison;
  throw InvalidArgument(concat("poison: expected nan or garbage, got '", name, "'"));
}

const char* name_of(Schedule schedule) {
  constexpr const char* names[] = {"forward", "reverse", "random"};
  return names[int(schedule)];
}

const char* name_of(Poison poison) { return poison == Poison::nan ? "nan" : "garbage"; }

}  // namespace fastconv::emulator
