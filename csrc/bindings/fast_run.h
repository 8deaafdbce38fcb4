// plan.run as CPython's fastest kind of callable. pybind11's general dispatch (overloads, casters, keyword arguments)
// costs 0.4 us, as much as a small kernel; this costs a tenth.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <new>

#include "fastconv/plan.h"

namespace fastconv {

template <size_t Count>
using Addresses = std::array<uintptr_t, Count>;

class GilReleased {
 public:
  GilReleased() : thread_(PyEval_SaveThread()) {}
  ~GilReleased() { PyEval_RestoreThread(thread_); }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* thread_;
};

// `run(const Plan&, const Addresses<Count>&)` is called without the GIL.
template <class Plan, size_t Count, void (*run)(const Plan&, const Addresses<Count>&)>
PyObject* call_run(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (count != Py_ssize_t(Count))
    return PyErr_Format(PyExc_TypeError, "run: expected %zu addresses, got %zd arguments", Count, count);
  Addresses<Count> addresses;
  for (size_t i = 0; i < Count; ++i) {
    addresses[i] = PyLong_AsSize_t(arguments[i]);
    if (addresses[i] == size_t(-1) && PyErr_Occurred()) return nullptr;
  }
  const auto* plan = static_cast<const Plan*>(PyCapsule_GetPointer(self, nullptr));
  if (!plan) return nullptr;
  try {
    GilReleased released;
    run(*plan, addresses);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

// The callable for one plan; it keeps the plan alive.
template <class Plan, size_t Count, void (*run)(const Plan&, const Addresses<Count>&)>
pybind11::object fast_run(const pybind11::object& plan) {
  constexpr auto call = &call_run<Plan, Count, run>;
  static PyMethodDef method{"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL,
                            "Runs the plan: addresses as ints, 0 for none; workspace, stream last."};
  const auto keep_alive = [](PyObject* capsule) { Py_XDECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); };
  auto capsule = pybind11::reinterpret_steal<pybind11::object>(
      PyCapsule_New(const_cast<Plan*>(plan.cast<const Plan*>()), nullptr, keep_alive));
  if (!capsule || PyCapsule_SetContext(capsule.ptr(), pybind11::object(plan).release().ptr()))
    throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&method, capsule.ptr()));
}

}  // namespace fastconv
