#include <exception>

#include "api/check.h"
#include "register.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of cellpost; the public functions are in the package.";
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const cellpost::api::WrongType& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    }
  });
  cellpost::bindings::register_runtime(m);
  cellpost::bindings::register_labels(m);
  cellpost::bindings::register_properties(m);
  cellpost::bindings::register_flows(m);
  cellpost::bindings::register_watershed(m);
  cellpost::bindings::register_paste(m);
  cellpost::bindings::register_nms(m);
  cellpost::bindings::register_tiles(m);
  cellpost::bindings::register_overlaps(m);
}
