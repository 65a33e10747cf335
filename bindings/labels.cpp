#include "api/labels.h"

#include <pybind11/native_enum.h>
#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

/// A function that changes `labels` in place and takes one more argument.
template <class Value, class Function>
void define(py::module_& m, const char* name, const char* argument, Function function) {
  m.def(
      name,
      [function](py::handle labels, intptr_t stream, Value value) {
        const HeldArray held(labels, "labels", stream);
        return to_python(without_gil([&] { return function(held.get(), value); }));
      },
      py::arg("labels"), py::arg("stream"), py::kw_only(), py::arg(argument));
}

template <class Function>
void define(py::module_& m, const char* name, Function function) {
  m.def(
      name,
      [function](py::handle labels, intptr_t stream) {
        const HeldArray held(labels, "labels", stream);
        return to_python(without_gil([&] { return function(held.get()); }));
      },
      py::arg("labels"), py::arg("stream"));
}

}  // namespace

void register_labels(py::module_& m) {
  py::native_enum<Nested>(m, "Nested", "enum.IntEnum")
      .value("keep", Nested::keep)
      .value("overwrite", Nested::overwrite)
      .finalize();
  py::native_enum<Fragments>(m, "Fragments", "enum.IntEnum")
      .value("keep", Fragments::keep)
      .value("largest", Fragments::largest)
      .value("split", Fragments::split)
      .finalize();
  define(m, "largest_label", api::largest_label);
  define(m, "count_labels", api::count_labels);
  define(m, "relabel", api::relabel);
  define<int64_t>(m, "remove_small", "min_size", api::remove_small);
  define<double>(m, "remove_large", "max_size_fraction", api::remove_large);
  define<Nested>(m, "fill_holes", "nested", api::fill_holes);
  define<Fragments>(m, "resolve_fragments", "fragments", api::resolve_fragments);
}

}  // namespace cellpost::bindings
