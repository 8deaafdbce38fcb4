// What the CPU backend adds to a module's Python face: tensors in memory of its own (cpu/results.h), as DLPack.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <numeric>

#include "cpu/results.h"

namespace py = pybind11;
using fastconv::cpu::Results;

namespace {

// DLPack's structures, whose layout is fixed by https://dmlc.github.io/dlpack/latest/c_api.html (DLManagedTensor).
struct DLTensor {
  void* data;
  int32_t device_type, device;
  int32_t rank;
  uint8_t type_code, type_bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
constexpr int32_t dlpack_cpu = 1;

struct Result {
  DLManagedTensor managed;
  std::vector<int64_t> shape, strides;
  int64_t bytes;

  static void free(DLManagedTensor* managed) {
    auto* const result = static_cast<Result*>(managed->context);
    Results::instance().give(managed->tensor.data, result->bytes);
    delete result;
  }
};

// A capsule that nobody consumed still owns its tensor; one that was renamed ("used_dltensor") does not.
void free_unused(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;
  auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->deleter(managed);
}

py::object result(std::vector<int64_t> shape, std::vector<int64_t> strides, uint8_t code, uint8_t bits) {
  const int64_t bytes = std::accumulate(shape.begin(), shape.end(), int64_t(bits / 8), std::multiplies<>());
  void* const memory = Results::instance().take(bytes);
  if (!memory) return py::none();
  auto* const made = new Result{{}, std::move(shape), std::move(strides), bytes};
  made->managed = {
      {memory, dlpack_cpu, 0, int32_t(made->shape.size()), code, bits, 1, made->shape.data(), made->strides.data(), 0},
      made,
      Result::free};
  return py::reinterpret_steal<py::object>(PyCapsule_New(&made->managed, "dltensor", free_unused));
}

}  // namespace

void bind_backend_extras(py::module_& m) {
  m.def("result", &result, py::arg("shape"), py::arg("strides"), py::arg("code"), py::arg("bits"),
        "An uninitialised dense tensor as a DLPack capsule, its element type by DLPack's code; None without memory.");
  m.def(
      "keep_results", [](int64_t bytes) { Results::instance().limit(bytes); }, py::arg("bytes"),
      "How many bytes of freed results are kept at most; 0 gives back all.");
  m.def(
      "kept_results", [] { return py::make_tuple(Results::instance().kept(), Results::instance().limit()); },
      "Bytes of freed results that are kept, and how many may be.");
}
