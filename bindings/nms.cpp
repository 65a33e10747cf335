#include "api/nms.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <pybind11/native_enum.h>
#include "arrays.h"

#include "crop_table.h"
#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

using Optional = std::optional<py::object>;

/// An argument that may be None.
class MaybeHeld {
 public:
  MaybeHeld(const Optional& array, const char* name, intptr_t stream) {
    if (array) held_.emplace(*array, name, stream);
  }
  std::optional<api::Array> get() const {
    return held_ ? std::optional<api::Array>(held_->get()) : std::nullopt;
  }

 private:
  std::optional<HeldArray> held_;
};

}  // namespace

void register_nms(py::module_& m) {
  py::native_enum<OverlapMetric>(m, "OverlapMetric", "enum.IntEnum")
      .value("iou", OverlapMetric::iou)
      .value("ios", OverlapMetric::ios)
      .finalize();
  py::native_enum<FusedScore>(m, "FusedScore", "enum.IntEnum")
      .value("avg", FusedScore::avg)
      .value("max", FusedScore::max)
      .value("box_and_model_avg", FusedScore::box_and_model_avg)
      .value("absent_model_aware_avg", FusedScore::absent_model_aware_avg)
      .finalize();
  m.def(
      "nms",
      [](py::handle boxes, py::handle scores, const Optional& classes, const Optional& tiles,
         py::handle keep, py::handle keeper, const Optional& merged, intptr_t stream,
         OverlapMetric metric, double threshold, bool inclusive) {
        const HeldArray places(boxes, "boxes", stream), values(scores, "scores", stream),
            kept(keep, "keep", stream), keepers(keeper, "keeper", stream);
        const MaybeHeld of_class(classes, "class_ids", stream), of_tile(tiles, "tiles", stream),
            grown(merged, "merged", stream);
        return without_gil([&] {
          return api::nms({places.get(), values.get(), of_class.get(), of_tile.get(), kept.get(),
                           keepers.get()},
                          {metric, threshold, inclusive}, std::nullopt, grown.get());
        });
      },
      py::arg("boxes"), py::arg("scores"), py::arg("classes"), py::arg("tiles"), py::arg("keep"),
      py::arg("keeper"), py::arg("merged"), py::arg("stream"), py::kw_only(), py::arg("metric"),
      py::arg("threshold"), py::arg("inclusive"));
  m.def(
      "mask_nms",
      [](py::handle masks, const OptionalTable& table, py::handle boxes, py::handle scores,
         const Optional& classes, const Optional& tiles, py::handle keep, py::handle keeper,
         intptr_t stream, OverlapMetric metric, double threshold, PasteStyle style,
         double mask_threshold, std::array<int64_t, 2> shape) {
        const HeldArray crops(masks, "masks", stream), places(boxes, "boxes", stream),
            values(scores, "scores", stream), kept(keep, "keep", stream),
            keepers(keeper, "keeper", stream);
        const HeldTable of_crops(table, stream);
        const MaybeHeld of_class(classes, "class_ids", stream), of_tile(tiles, "tiles", stream);
        const api::NmsMasks pixels{
            crops.get(), of_crops.get(), {style, mask_threshold, 0.0, {}}, shape};
        return without_gil([&] {
          return api::nms({places.get(), values.get(), of_class.get(), of_tile.get(), kept.get(),
                           keepers.get()},
                          {metric, threshold, false}, pixels, std::nullopt);
        });
      },
      py::arg("masks"), py::arg("table"), py::arg("boxes"), py::arg("scores"), py::arg("classes"),
      py::arg("tiles"), py::arg("keep"), py::arg("keeper"), py::arg("stream"), py::kw_only(),
      py::arg("metric"), py::arg("threshold"), py::arg("style"), py::arg("mask_threshold"),
      py::arg("shape"));
  m.def(
      "fuse_boxes",
      [](py::array_t<double, py::array::c_style> boxes,
         py::array_t<double, py::array::c_style> scores,
         py::array_t<int32_t, py::array::c_style> model,
         const std::optional<py::array_t<int64_t, py::array::c_style>>& classes,
         const std::vector<double>& weights, double iou_threshold, FusedScore score,
         bool allows_overflow) {
        const py::ssize_t n = scores.size();
        if (boxes.size() != 4 * n || model.size() != n || (classes && classes->size() != n)) {
          throw std::invalid_argument("boxes, scores, model, classes: expected n rows each");
        }
        py::array_t<double> fused({n, py::ssize_t{4}}), fused_scores(n);
        py::array_t<int64_t> fused_classes(n), group(n);
        const BoxesToFuse given{boxes.data(),
                                scores.data(),
                                model.data(),
                                classes ? classes->data() : nullptr,
                                n,
                                weights.data(),
                                static_cast<int64_t>(weights.size()),
                                iou_threshold,
                                score,
                                allows_overflow};
        const FusedBoxes out{fused.mutable_data(), fused_scores.mutable_data(),
                             fused_classes.mutable_data(), group.mutable_data()};
        const int64_t n_fused = without_gil([&] { return cpu::fuse_boxes(given, out); });
        return std::make_tuple(n_fused, fused, fused_scores, fused_classes, group);
      },
      py::arg("boxes"), py::arg("scores"), py::arg("model"), py::arg("classes"), py::arg("weights"),
      py::arg("iou_threshold"), py::arg("score"), py::arg("allows_overflow"));
}

}  // namespace cellpost::bindings
