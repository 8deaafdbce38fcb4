// What the emulator adds to a module's Python face: its settings.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "emulator/settings.h"

namespace py = pybind11;
using namespace fastconv::emulator;

namespace {

py::dict configure(const std::optional<std::string>& schedule, std::optional<uint64_t> seed,
                   const std::optional<std::string>& poison, std::optional<bool> race_check, std::optional<bool> count,
                   std::optional<int> threads) {
  Settings chosen = settings();
  py::dict before;
  before["schedule"] = name_of(chosen.schedule);
  before["seed"] = chosen.seed;
  before["poison"] = name_of(chosen.poison);
  before["race_check"] = chosen.race_check;
  before["count"] = chosen.count;
  before["threads"] = chosen.threads;
  if (schedule) chosen.schedule = parse_schedule(*schedule);
  if (poison) chosen.poison = parse_poison(*poison);
  chosen.seed = seed.value_or(chosen.seed);
  chosen.race_check = race_check.value_or(chosen.race_check);
  chosen.count = count.value_or(chosen.count);
  chosen.threads = threads.value_or(chosen.threads);
  set_settings(chosen);
  return before;
}

}  // namespace

void bind_backend_extras(py::module_& m) {
  const auto none = py::none();
  m.def("configure", &configure, py::kw_only(), py::arg("schedule") = none, py::arg("seed") = none,
        py::arg("poison") = none, py::arg("race_check") = none, py::arg("count") = none, py::arg("threads") = none,
        "Changes the settings that are given, for all later launches; returns the settings as they were, so that "
        "configure(**before) restores them.");
}
