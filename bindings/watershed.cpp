#include "api/watershed.h"

#include <pybind11/stl.h>

#include <pybind11/native_enum.h>
#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

using Bounds = std::array<std::array<double, 2>, 2>;

std::optional<std::array<Range, 2>> to_ranges(const std::optional<Bounds>& bounds) {
  if (!bounds) return std::nullopt;
  const Bounds& b = *bounds;
  return std::array<Range, 2>{Range{b[0][0], b[0][1]}, Range{b[1][0], b[1][1]}};
}

Bounds to_bounds(const Range (&ranges)[2]) {
  return {{{ranges[0].low, ranges[0].high}, {ranges[1].low, ranges[1].high}}};
}

py::dict to_python(const HoverReport& r) {
  py::dict report;
  report["n_regions"] = r.n_regions;
  report["n_small_regions"] = r.n_small_regions;
  report["n_markers"] = r.n_markers;
  report["n_small_markers"] = r.n_small_markers;
  report["n_unmarked"] = r.n_unmarked;
  report["n_labels"] = r.n_labels;
  return report;
}

}  // namespace

void register_watershed(py::module_& m) {
  py::native_enum<HoverStyle>(m, "HoverStyle", "enum.IntEnum")
      .value("hovernet", HoverStyle::hovernet)
      .value("monai", HoverStyle::monai)
      .finalize();
  py::native_enum<Activation>(m, "Activation", "enum.IntEnum")
      .value("none", Activation::none)
      .value("sigmoid", Activation::sigmoid)
      .value("softmax", Activation::softmax)
      .finalize();
  py::native_enum<api::FootprintShape>(m, "FootprintShape", "enum.IntEnum")
      .value("ellipse", api::FootprintShape::ellipse)
      .value("disk", api::FootprintShape::disk)
      .finalize();
  py::class_<api::HoverParameters>(m, "HoverParameters")
      .def(py::init([](HoverStyle style, Activation activation, std::optional<double> threshold,
                       double border_threshold, int64_t ksize, int64_t radius,
                       api::FootprintShape footprint, int64_t min_size, double sigma,
                       int64_t connectivity, const std::optional<Bounds>& value_range,
                       const std::optional<Bounds>& gradient_range) {
             return api::HoverParameters{style,
                                         activation,
                                         threshold,
                                         border_threshold,
                                         ksize,
                                         radius,
                                         footprint,
                                         min_size,
                                         sigma,
                                         connectivity,
                                         to_ranges(value_range),
                                         to_ranges(gradient_range)};
           }),
           py::kw_only(), py::arg("style"), py::arg("activation"), py::arg("threshold"),
           py::arg("border_threshold"), py::arg("ksize"), py::arg("radius"), py::arg("footprint"),
           py::arg("min_size"), py::arg("sigma"), py::arg("connectivity"), py::arg("value_range"),
           py::arg("gradient_range"));

  m.def(
      "label",
      [](py::handle mask, py::handle labels, intptr_t stream, int64_t connectivity) {
        const HeldArray in(mask, "mask", stream), out(labels, "labels", stream);
        return without_gil([&] { return api::label(in.get(), connectivity, out.get()); });
      },
      py::arg("mask"), py::arg("labels"), py::arg("stream"), py::kw_only(),
      py::arg("connectivity"));
  m.def(
      "binary_fill_holes",
      [](py::handle mask, py::handle filled, intptr_t stream, int64_t connectivity) {
        const HeldArray in(mask, "mask", stream), out(filled, "filled", stream);
        without_gil([&] { api::fill_mask_holes(in.get(), connectivity, out.get()); });
      },
      py::arg("mask"), py::arg("filled"), py::arg("stream"), py::kw_only(),
      py::arg("connectivity"));
  m.def(
      "binary_opening",
      [](py::handle mask, py::handle opened, intptr_t stream, int64_t radius,
         api::FootprintShape footprint) {
        const HeldArray in(mask, "mask", stream), out(opened, "opened", stream);
        without_gil([&] { api::open_mask(in.get(), radius, footprint, out.get()); });
      },
      py::arg("mask"), py::arg("opened"), py::arg("stream"), py::kw_only(), py::arg("radius"),
      py::arg("footprint"));
  m.def(
      "watershed",
      [](py::handle energy, py::handle mask, py::handle labels, intptr_t stream,
         int64_t connectivity) {
        const HeldArray values(energy, "energy", stream), inside(mask, "mask", stream),
            out(labels, "labels", stream);
        return without_gil(
            [&] { return api::watershed(values.get(), inside.get(), connectivity, out.get()); });
      },
      py::arg("energy"), py::arg("mask"), py::arg("labels"), py::arg("stream"), py::kw_only(),
      py::arg("connectivity"));
  m.def(
      "hover_ranges",
      [](py::handle hv, intptr_t stream, const api::HoverParameters& parameters) {
        const HeldArray maps(hv, "hv", stream);
        const HoverRanges ranges =
            without_gil([&] { return api::hover_ranges(maps.get(), parameters); });
        return std::make_pair(to_bounds(ranges.value), to_bounds(ranges.gradient));
      },
      py::arg("hv"), py::arg("stream"), py::arg("parameters"));
  m.def(
      "hover_gradients",
      [](py::handle hv, py::handle out, intptr_t stream, const api::HoverParameters& parameters) {
        const HeldArray maps(hv, "hv", stream), derivatives(out, "out", stream);
        without_gil([&] { api::hover_gradients(maps.get(), parameters, derivatives.get()); });
      },
      py::arg("hv"), py::arg("out"), py::arg("stream"), py::arg("parameters"));
  m.def(
      "hover_watershed",
      [](py::handle prob, py::handle hv, py::handle labels, intptr_t stream,
         const api::HoverParameters& parameters) {
        const HeldArray nuclei(prob, "prob", stream), maps(hv, "hv", stream),
            out(labels, "labels", stream);
        return to_python(without_gil(
            [&] { return api::hover_watershed(nuclei.get(), maps.get(), parameters, out.get()); }));
      },
      py::arg("prob"), py::arg("hv"), py::arg("labels"), py::arg("stream"), py::arg("parameters"));
  m.def(
      "watershed_markers",
      [](py::handle prob, py::handle hv, py::handle markers, py::handle energy, py::handle mask,
         intptr_t stream, const api::HoverParameters& parameters) {
        const HeldArray nuclei(prob, "prob", stream), maps(hv, "hv", stream),
            ids(markers, "markers", stream), values(energy, "energy", stream),
            inside(mask, "mask", stream);
        return to_python(without_gil([&] {
          return api::watershed_markers(nuclei.get(), maps.get(), parameters, ids.get(),
                                        values.get(), inside.get());
        }));
      },
      py::arg("prob"), py::arg("hv"), py::arg("markers"), py::arg("energy"), py::arg("mask"),
      py::arg("stream"), py::arg("parameters"));
}

}  // namespace cellpost::bindings
