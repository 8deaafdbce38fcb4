// The Python face of the test kernels: run(name, arrays, integers, grid, block, shared_bytes).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "emulator/tests/harness.h"

namespace py = pybind11;
using namespace fastconv;
using namespace fastconv::testing;

#if defined(FASTCONV_EMULATOR)
void bind_backend_extras(py::module_& m);
#endif

namespace {

using Triple = std::array<unsigned, 3>;

const TestKernel& find(const std::string& name) {
  std::vector<const std::vector<TestKernel>*> all{&conformance_kernels()};
#if defined(FASTCONV_EMULATOR)
  all.insert(all.end(), {&mistake_kernels(), &traffic_kernels(), &cost_kernels()});
#endif
  for (const auto* kernels : all)
    for (const TestKernel& kernel : *kernels)
      if (name == kernel.name) return kernel;
  throw InvalidArgument(concat("no test kernel '", name, "'"));
}

// arrays: (address, bytes) pairs, all of them regions the kernel may touch.
void run(const std::string& name, const std::vector<std::pair<uintptr_t, int64_t>>& arrays,
         const std::vector<int64_t>& integers, Triple grid, Triple block, size_t shared_bytes, uintptr_t stream) {
  static const char* names[] = {"array 0", "array 1", "array 2", "array 3"};
  require(arrays.size() <= 4 && integers.size() <= 4, "at most 4 arrays and 4 integers");
  const TestKernel& kernel = find(name);
  Arguments arguments{};
  device::Launch config{kernel.name, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes};
  config.stream = reinterpret_cast<void*>(stream);
  for (size_t i = 0; i < arrays.size(); ++i) {
    arguments.p[i] = reinterpret_cast<void*>(arrays[i].first);
    config.regions.push_back({arguments.p[i], arrays[i].second, names[i]});
  }
  for (size_t i = 0; i < integers.size(); ++i) arguments.n[i] = integers[i];
  py::gil_scoped_release unlocked;
  start(kernel, config, arguments);
}

}  // namespace

PYBIND11_MODULE(FASTCONV_MODULE, m) {
  m.doc() = "Test kernels for the primitives of csrc/device; not shipped.";
  py::register_exception<InvalidArgument>(m, "InvalidArgument", PyExc_RuntimeError);
  m.def("run", &run, py::arg("name"), py::arg("arrays"), py::arg("integers") = std::vector<int64_t>{},
        py::arg("grid") = Triple{1, 1, 1}, py::arg("block") = Triple{64, 1, 1}, py::arg("shared_bytes") = 0,
        py::arg("stream") = 0);
  m.def("kernels", [] {
    std::vector<std::string> names;
    for (const TestKernel& kernel : conformance_kernels()) names.push_back(kernel.name);
    return names;
  });
#if defined(FASTCONV_EMULATOR)
  bind_backend_extras(m);
#endif
}
