#include "api/flows.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <pybind11/native_enum.h>
#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {

namespace {

using Lengths = std::vector<int64_t>;

/// Stages on windows of an image.
void register_windows(py::module_& m) {
  m.def(
      "follow_region",
      [](py::handle dP, py::handle cellprob, py::handle bins, intptr_t stream,
         float cellprob_threshold, int64_t niter, Sampling sampling, const Lengths& offset,
         const Lengths& global_shape, const Lengths& region) {
        const HeldArray flow(dP, "dP", stream), cell(cellprob, "cellprob", stream),
            out(bins, "bins", stream);
        FollowOptions options;
        options.cellprob_threshold = cellprob_threshold;
        options.n_steps = niter;
        options.sampling = sampling;
        without_gil([&] {
          api::follow_region(flow.get(), cell.get(), options, offset, global_shape, region,
                             out.get());
        });
      },
      py::arg("dP"), py::arg("cellprob"), py::arg("bins"), py::arg("stream"), py::kw_only(),
      py::arg("cellprob_threshold"), py::arg("niter"), py::arg("sampling"), py::arg("offset"),
      py::arg("global_shape"), py::arg("region"));
  m.def(
      "bound_bins",
      [](py::handle bins, py::handle boxes, intptr_t stream, const Lengths& global_shape,
         const Lengths& side) {
        const HeldArray in(bins, "bins", stream), out(boxes, "boxes", stream);
        without_gil([&] { api::bound_bins(in.get(), global_shape, side, out.get()); });
      },
      py::arg("bins"), py::arg("boxes"), py::arg("stream"), py::kw_only(), py::arg("global_shape"),
      py::arg("side"));
  m.def(
      "count_bins",
      [](py::handle bins, py::handle counts, intptr_t stream, const Lengths& offset,
         const Lengths& global_shape) {
        const HeldArray in(bins, "bins", stream), out(counts, "counts", stream);
        without_gil([&] { api::count_bins(in.get(), offset, global_shape, out.get()); });
      },
      py::arg("bins"), py::arg("counts"), py::arg("stream"), py::kw_only(), py::arg("offset"),
      py::arg("global_shape"));
  m.def(
      "find_seeds",
      [](py::handle counts, intptr_t stream) {
        const HeldArray in(counts, "counts", stream);
        const auto seeds = without_gil([&] { return api::find_seeds(in.get()); });
        return py::array_t<int64_t>(static_cast<py::ssize_t>(seeds.size()), seeds.data());
      },
      py::arg("counts"), py::arg("stream"));
  m.def(
      "label_bins",
      [](py::handle bins, py::handle counts, py::handle labels, intptr_t stream,
         const py::array_t<int64_t, py::array::c_style | py::array::forcecast>& seeds,
         const Lengths& offset, const Lengths& global_shape) {
        const HeldArray in(bins, "bins", stream), histogram(counts, "counts", stream),
            out(labels, "labels", stream);
        const Lengths list(seeds.data(), seeds.data() + seeds.size());
        without_gil([&] {
          api::label_bins(in.get(), histogram.get(), list, offset, global_shape, out.get());
        });
      },
      py::arg("bins"), py::arg("counts"), py::arg("labels"), py::arg("stream"), py::kw_only(),
      py::arg("seeds"), py::arg("offset"), py::arg("global_shape"));
  m.def(
      "survey_objects",
      [](py::handle labels, py::handle rows, py::handle has_hole, intptr_t stream) {
        const HeldArray in(labels, "labels", stream), out(rows, "rows", stream);
        std::optional<HeldArray> flags;
        if (!has_hole.is_none()) flags.emplace(has_hole, "has_hole", stream);
        without_gil([&] {
          api::survey_objects(in.get(), out.get(),
                              flags ? std::optional(flags->get()) : std::nullopt);
        });
      },
      py::arg("labels"), py::arg("rows"), py::arg("has_hole"), py::arg("stream"));
  m.def(
      "map_labels",
      [](py::handle labels, py::handle map, intptr_t stream) {
        const HeldArray in(labels, "labels", stream), by_id(map, "map", stream);
        without_gil([&] { api::map_labels(in.get(), by_id.get()); });
      },
      py::arg("labels"), py::arg("map"), py::arg("stream"));
}

}  // namespace

void register_flows(py::module_& m) {
  py::native_enum<Sampling>(m, "Sampling", "enum.IntEnum")
      .value("cellpose", Sampling::cellpose)
      .value("centered", Sampling::centered)
      .finalize();

  m.def(
      "follow_flows",
      [](py::handle dP, py::handle cellprob, py::handle labels, intptr_t stream,
         float cellprob_threshold, double flow_threshold, int64_t niter, int64_t min_size,
         double max_size_fraction, bool fill_holes, Nested nested, Fragments fragments,
         Sampling sampling) {
        const HeldArray flow(dP, "dP", stream), cell(cellprob, "cellprob", stream),
            out(labels, "labels", stream);
        FollowOptions options;
        options.cellprob_threshold = cellprob_threshold;
        options.flow_threshold = flow_threshold;
        options.n_steps = niter;
        options.min_size = min_size;
        options.max_size_fraction = max_size_fraction;
        options.fill_holes = fill_holes;
        options.nested = nested;
        options.fragments = fragments;
        options.sampling = sampling;
        const FlowReport r = without_gil(
            [&] { return api::follow_flows(flow.get(), cell.get(), options, out.get()); });
        py::dict report;
        report["n_foreground"] = r.n_foreground;
        report["n_seeds"] = r.n_seeds;
        report["n_unassigned"] = r.n_unassigned;
        report["n_empty_seeds"] = r.n_empty_seeds;
        report["n_too_large"] = r.n_too_large;
        report["n_bad_flow"] = r.n_bad_flow;
        report["n_fragments"] = r.n_fragments;
        report["n_too_small"] = r.n_too_small;
        report["n_nested"] = r.n_nested;
        report["n_hole_pixels"] = r.n_hole_pixels;
        report["n_labels"] = r.n_labels;
        report["qc_niter"] = r.qc_niter;
        return report;
      },
      py::arg("dP"), py::arg("cellprob"), py::arg("labels"), py::arg("stream"), py::kw_only(),
      py::arg("cellprob_threshold"), py::arg("flow_threshold"), py::arg("niter"),
      py::arg("min_size"), py::arg("max_size_fraction"), py::arg("fill_holes"), py::arg("nested"),
      py::arg("fragments"), py::arg("sampling"));

  m.def(
      "count_foreground",
      [](py::handle mask, intptr_t stream) {
        const HeldArray inside(mask, "mask", stream);
        return without_gil([&] { return api::count_foreground(inside.get()); });
      },
      py::arg("mask"), py::arg("stream"));

  m.def(
      "flow_endpoints",
      [](py::handle dP, py::handle mask, py::handle endpoints, intptr_t stream, int64_t niter,
         Sampling sampling, const std::vector<int64_t>& offset,
         const std::vector<int64_t>& global_shape) {
        const HeldArray flow(dP, "dP", stream), inside(mask, "mask", stream),
            out(endpoints, "endpoints", stream);
        return without_gil([&] {
          return api::flow_endpoints(flow.get(), inside.get(), niter, sampling, offset,
                                     global_shape, out.get());
        });
      },
      py::arg("dP"), py::arg("mask"), py::arg("endpoints"), py::arg("stream"), py::kw_only(),
      py::arg("niter"), py::arg("sampling"), py::arg("offset") = std::vector<int64_t>{},
      py::arg("global_shape") = std::vector<int64_t>{});

  m.def(
      "endpoints_to_labels",
      [](py::handle endpoints, py::handle mask, py::handle labels, intptr_t stream,
         double max_size_fraction) {
        const HeldArray points(endpoints, "endpoints", stream), inside(mask, "mask", stream),
            out(labels, "labels", stream);
        return without_gil([&] {
          return api::endpoints_to_labels(points.get(), inside.get(), max_size_fraction, out.get());
        });
      },
      py::arg("endpoints"), py::arg("mask"), py::arg("labels"), py::arg("stream"), py::kw_only(),
      py::arg("max_size_fraction"));

  m.def(
      "masks_to_flows",
      [](py::handle labels, py::handle flows, intptr_t stream, int64_t niter) {
        const HeldArray in(labels, "labels", stream), out(flows, "flows", stream);
        return without_gil([&] { return api::masks_to_flows(in.get(), niter, out.get()); });
      },
      py::arg("labels"), py::arg("flows"), py::arg("stream"), py::kw_only(), py::arg("niter"));

  m.def(
      "flow_error",
      [](py::handle labels, py::handle dP, py::handle errors, intptr_t stream, int64_t niter,
         const Lengths& global_shape) {
        const HeldArray in(labels, "labels", stream), flow(dP, "dP", stream),
            out(errors, "errors", stream);
        return without_gil(
            [&] { api::flow_error(in.get(), flow.get(), niter, global_shape, out.get()); });
      },
      py::arg("labels"), py::arg("dP"), py::arg("errors"), py::arg("stream"), py::kw_only(),
      py::arg("niter") = -1, py::arg("global_shape") = Lengths{});

  m.def(
      "remove_bad_flows",
      [](py::handle labels, py::handle dP, intptr_t stream, double flow_threshold) {
        const HeldArray in(labels, "labels", stream), flow(dP, "dP", stream);
        return to_python(without_gil(
            [&] { return api::remove_bad_flows(in.get(), flow.get(), flow_threshold); }));
      },
      py::arg("labels"), py::arg("dP"), py::arg("stream"), py::kw_only(),
      py::arg("flow_threshold"));
  register_windows(m);
}

}  // namespace cellpost::bindings
