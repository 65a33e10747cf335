#include "api/properties.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {

void register_properties(py::module_& m) {
  m.def(
      "measure_objects",
      [](py::handle labels, py::handle intensity, const py::dict& out, intptr_t stream) {
        std::vector<std::unique_ptr<HeldArray>> held;
        const auto hold = [&](py::handle array, const char* name) {
          held.push_back(std::make_unique<HeldArray>(array, name, stream));
          return held.back()->get();
        };
        const auto find = [&](const char* name) -> std::optional<api::Array> {
          if (!out.contains(name)) return std::nullopt;
          return hold(out[name], name);
        };
        const api::Array in = hold(labels, "labels");
        std::optional<api::Array> values;
        if (!intensity.is_none()) values = hold(intensity, "intensity");
        const api::PropertyArrays to{hold(out["label"], "label"),
                                     hold(out["area"], "area"),
                                     hold(out["bbox"], "bbox"),
                                     hold(out["centroid"], "centroid"),
                                     hold(out["covariance"], "covariance"),
                                     find("perimeter"),
                                     find("intensity_mean"),
                                     find("intensity_min"),
                                     find("intensity_max")};
        without_gil([&] { api::measure_objects(in, values, to); });
      },
      py::arg("labels"), py::arg("intensity"), py::arg("out"), py::arg("stream"));
  m.def(
      "instance_types",
      [](py::handle labels, py::handle types, py::handle type, py::handle share, intptr_t stream,
         int64_t n_types) {
        const HeldArray in(labels, "labels", stream), pixels(types, "types", stream),
            best(type, "type", stream), part(share, "share", stream);
        without_gil(
            [&] { api::instance_types(in.get(), pixels.get(), n_types, best.get(), part.get()); });
      },
      py::arg("labels"), py::arg("types"), py::arg("type"), py::arg("share"), py::arg("stream"),
      py::kw_only(), py::arg("n_types"));
  m.def(
      "find_outlines",
      [](py::handle labels, py::handle offsets, intptr_t stream) {
        const HeldArray in(labels, "labels", stream), first(offsets, "offsets", stream);
        without_gil([&] { api::find_outlines(in.get(), first.get()); });
      },
      py::arg("labels"), py::arg("offsets"), py::arg("stream"));
  m.def(
      "trace_outlines",
      [](py::handle labels, py::handle offsets, py::handle points, intptr_t stream) {
        const HeldArray in(labels, "labels", stream), first(offsets, "offsets", stream),
            xy(points, "points", stream);
        without_gil([&] { api::trace_outlines(in.get(), first.get(), xy.get()); });
      },
      py::arg("labels"), py::arg("offsets"), py::arg("points"), py::arg("stream"));
}

}  // namespace cellpost::bindings
