// What the emulator adds to a module's Python face: its settings.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "emulator/counters.h"
#include "emulator/settings.h"

namespace py = pybind11;
using namespace fastconv::emulator;

namespace {

py::dict configure(const std::optional<std::string>& schedule, std::optional<uint64_t> seed,
                   const std::optional<std::string>& poison, std::optional<bool> race_check, std::optional<bool> count,
                   std::optional<int> threads, std::optional<int64_t> blocks) {
  Settings chosen = settings();
  py::dict before;
  before["schedule"] = name_of(chosen.schedule);
  before["seed"] = chosen.seed;
  before["poison"] = name_of(chosen.poison);
  before["race_check"] = chosen.race_check;
  before["count"] = chosen.count;
  before["threads"] = chosen.threads;
  before["blocks"] = chosen.blocks;
  if (schedule) chosen.schedule = parse_schedule(*schedule);
  if (poison) chosen.poison = parse_poison(*poison);
  chosen.seed = seed.value_or(chosen.seed);
  chosen.race_check = race_check.value_or(chosen.race_check);
  chosen.count = count.value_or(chosen.count);
  chosen.threads = threads.value_or(chosen.threads);
  chosen.blocks = blocks.value_or(chosen.blocks);
  set_settings(chosen);
  return before;
}

py::dict counters() {
  py::dict kernels;
  for (const auto& [kernel, counted] : all_counters()) {
    py::dict row;
    row["launches"] = counted.launches, row["blocks"] = counted.blocks, row["threads"] = counted.threads;
    row["barriers"] = counted.barriers, row["mma"] = counted.mma, row["mma_flops"] = counted.mma_flops;
    for (int i = 0; i < space_count; ++i) {
      const Traffic& traffic = counted.traffic[i];
      py::dict space;
      space["requests"] = traffic.requests;
      space[is_shared(Space(i)) ? "wavefronts" : "sectors"] = traffic.units;
      space["ideal"] = traffic.ideal, space["bytes"] = traffic.bytes;
      if (!is_shared(Space(i))) space["distinct"] = traffic.distinct;
      row[name_of(Space(i))] = space;
    }
    kernels[py::str(kernel)] = row;
  }
  return kernels;
}

}  // namespace

void bind_backend_extras(py::module_& m) {
  const auto none = py::none();
  m.def("configure", &configure, py::kw_only(), py::arg("schedule") = none, py::arg("seed") = none,
        py::arg("poison") = none, py::arg("race_check") = none, py::arg("count") = none, py::arg("threads") = none,
        py::arg("blocks") = none,
        "Changes the settings that are given, for all later launches; returns the settings as they were, so that "
        "configure(**before) restores them.");
  m.def("counters", &counters,
        "What each kernel asked of memory since reset_counters(): a dict by kernel name of global_load, global_store, "
        "global_atomic (requests, sectors, distinct, ideal, bytes), shared_load, ... (requests, wavefronts, ideal, "
        "bytes), and totals.");
  m.def("reset_counters", &reset_counters);
}
