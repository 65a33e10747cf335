#include "api/paste.h"

#include <pybind11/stl.h>

#include <pybind11/native_enum.h>
#include "arrays.h"

#include "crop_table.h"
#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {

void register_paste(py::module_& m) {
  py::native_enum<PasteStyle>(m, "PasteStyle", "enum.IntEnum")
      .value("detectron2", PasteStyle::detectron2)
      .value("torchvision", PasteStyle::torchvision)
      .value("nearest", PasteStyle::nearest)
      .finalize();
  m.def(
      "paste",
      [](py::handle masks, const OptionalTable& table, py::handle boxes, py::handle scores,
         py::handle labels, intptr_t stream, int64_t first_id, PasteStyle style, double threshold,
         double min_score, std::array<int64_t, 2> offset) {
        const HeldArray crops(masks, "masks", stream), places(boxes, "boxes", stream),
            all_scores(scores, "scores", stream), out(labels, "labels", stream);
        const HeldTable of_crops(table, stream);
        const PasteCounts counts = without_gil([&] {
          return api::paste(crops.get(), of_crops.get(), places.get(), all_scores.get(), out.get(),
                            first_id, {style, threshold, min_score, offset});
        });
        return std::make_tuple(counts.n_low_score, counts.n_degenerate, counts.n_outside);
      },
      py::arg("masks"), py::arg("table"), py::arg("boxes"), py::arg("scores"), py::arg("labels"),
      py::arg("stream"), py::kw_only(), py::arg("first_id"), py::arg("style"), py::arg("threshold"),
      py::arg("min_score"), py::arg("offset"));
  m.def(
      "number_pasted",
      [](py::handle labels, py::handle index, intptr_t stream, int64_t n, int64_t min_size) {
        const HeldArray ids(labels, "labels", stream), rows(index, "index", stream);
        const PastedLabels found =
            without_gil([&] { return api::number_pasted(ids.get(), n, min_size, rows.get()); });
        return std::make_pair(found.n_present, found.n_labels);
      },
      py::arg("labels"), py::arg("index"), py::arg("stream"), py::kw_only(), py::arg("n"),
      py::arg("min_size"));
}

}  // namespace cellpost::bindings
