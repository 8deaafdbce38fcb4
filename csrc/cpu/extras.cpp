// What the CPU backend adds to a module's Python face: tensors in memory of its own (cpu/results.h), as DLPack.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
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

// What the results of one plan look like; each is made from it, and may outlive it.
struct Form {
  std::vector<int64_t> shape, strides;
  uint8_t code, bits;
  int64_t bytes;
};

struct Result {
  DLManagedTensor managed;
  std::shared_ptr<Form> form;

  static void free(DLManagedTensor* managed) {
    auto* const result = static_cast<Result*>(managed->context);
    Results::instance().give(managed->tensor.data, result->form->bytes);
    delete result;
  }
};

// A capsule that nobody consumed still owns its tensor; one that was renamed ("used_dltensor") does not.
void free_unused(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;
  auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->deleter(managed);
}

std::shared_ptr<Form> form(std::vector<int64_t> shape, std::vector<int64_t> strides, uint8_t code, uint8_t bits) {
  const int64_t bytes = std::accumulate(shape.begin(), shape.end(), int64_t(bits / 8), std::multiplies<>());
  return std::make_shared<Form>(Form{std::move(shape), std::move(strides), code, bits, bytes});
}

py::object result(const std::shared_ptr<Form>& form) {
  void* const memory = Results::instance().take(form->bytes);
  if (!memory) return py::none();
  Form& f = *form;
  auto* const made = new Result{{}, form};
  made->managed = {
      {memory, dlpack_cpu, 0, int32_t(f.shape.size()), f.code, f.bits, 1, f.shape.data(), f.strides.data(), 0},
      made,
      Result::free};
  return py::reinterpret_steal<py::object>(PyCapsule_New(&made->managed, "dltensor", free_unused));
}

}  // namespace

void bind_backend_extras(py::module_& m) {
  py::class_<Form, std::shared_ptr<Form>>(m, "Form")
      .def(py::init(&form), py::arg("shape"), py::arg("strides"), py::arg("code"), py::arg("bits"),
           "Dense tensors in memory that is kept: their shape and strides, their element type by DLPack's code.")
      .def("__call__", &result, "An uninitialised one as a DLPack capsule; None without memory.");
  m.def(
      "keep_results", [](int64_t bytes) { Results::instance().limit(bytes); }, py::arg("bytes"),
      "How many bytes of freed results are kept at most; 0 gives back all.");
  m.def(
      "kept_results", [] { return py::make_tuple(Results::instance().kept(), Results::instance().limit()); },
      "Bytes of freed results that are kept, and how many may be.");
}
