// For backends whose module has nothing beyond the common face.
#include <pybind11/pybind11.h>

void bind_backend_extras(pybind11::module_&) {}
