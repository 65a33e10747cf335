#include "api/paste.h"

#include <cmath>

#include "api/check.h"
#include "cpu/paste.h"
#include "cuda/paste.h"

namespace cellpost::api {
namespace {

constexpr int64_t kLargestCrop = int64_t{1} << 20;

Crops crops_of(const Array& masks, const std::optional<CropTable>& table) {
  Crops crops{};
  Array values = masks;
  const bool is_byte = masks.dtype == "bool" || masks.dtype == "uint8";
  if (is_byte) values.dtype = "float32";  // for the view alone
  if (table) {
    if (masks.shape.size() != 1) reject(masks.name, "1 axis", "shape " + text(masks.shape));
    crops.n = table->start.shape.empty() ? 0 : table->start.shape[0];
    crops.start = static_cast<const int64_t*>(output(table->start, "int64", {crops.n}));
    crops.sizes = static_cast<const int32_t*>(output(table->sizes, "int32", {crops.n, 2}));
    same_place(masks, table->start);
    same_place(masks, table->sizes);
    crops.values = float_view(values, false);
    if (masks.shape[0] > 1 && masks.stride[0] != 1) reject(masks.name, "a dense line", "strides");
  } else {
    if (masks.shape.size() != 3) {
      reject(masks.name, "shape (N, h, w) or (N, 1, h, w)", "shape " + text(masks.shape));
    }
    if (masks.shape[1] > kLargestCrop || masks.shape[2] > kLargestCrop) {
      reject(masks.name, "crops of at most 2^20 values a side", "shape " + text(masks.shape));
    }
    crops.n = masks.shape[0];
    crops.height = static_cast<int32_t>(masks.shape[1]);
    crops.width = static_cast<int32_t>(masks.shape[2]);
    crops.values = float_view(values, true);
  }
  if (is_byte) crops.values.dtype = DType::u8;
  return crops;
}

std::string row(int64_t i) { return "row " + std::to_string(i); }

}  // namespace

void reject_rows(const std::string& boxes, const std::string& masks, int64_t bad_box,
                 int64_t bad_score, int64_t bad_value) {
  if (bad_box >= 0) reject(boxes, "finite numbers", "others in " + row(bad_box));
  if (bad_score >= 0) reject("scores", "finite numbers", "another in " + row(bad_score));
  if (bad_value >= 0) {
    reject(masks, "values from 0 to 1 (probabilities, or a binary mask)",
           "others in " + row(bad_value));
  }
}

Paste paste_job(const Array& masks, const std::optional<CropTable>& table, const Array& boxes,
                const PasteParameters& parameters, const Shape& shape) {
  Paste job{};
  job.shape = shape;
  job.crops = crops_of(masks, table);
  const std::vector<int64_t> expected{job.crops.n, 4};
  if (boxes.shape != expected) {
    reject(boxes.name, "shape " + text(expected) + " (one row for each mask)",
           "shape " + text(boxes.shape));
  }
  job.boxes = float_view(boxes, true);
  job.style = parameters.style;
  job.threshold = static_cast<float>(parameters.threshold);
  if (!(job.threshold > 0.0f && job.threshold <= 1.0f)) {
    reject("threshold", "a number above 0 and up to 1", std::to_string(parameters.threshold));
  }
  for (size_t k = 0; k < 2; ++k) {
    constexpr int64_t kFar = int64_t{1} << 40;
    job.offset[k] = parameters.offset[k];
    if (job.offset[k] < -kFar || job.offset[k] > kFar) {
      reject("offset", "-2^40 to 2^40 pixels", std::to_string(job.offset[k]));
    }
  }
  return job;
}

PasteCounts paste(const Array& masks, const std::optional<CropTable>& table, const Array& boxes,
                  const Array& scores, const Array& labels, int64_t first_id,
                  const PasteParameters& parameters) {
  Shape shape;
  int32_t* const ids = labels_in_place(labels, &shape);
  if (shape.ndim != 2) reject(labels.name, "2 axes (H, W)", "shape " + text(labels.shape));
  Paste job = paste_job(masks, table, boxes, parameters, shape);
  job.labels = ids;
  if (first_id < 1 || scores.shape.size() != 1 || scores.shape[0] < first_id + job.crops.n ||
      first_id + job.crops.n > INT32_MAX) {
    reject(scores.name, "a score for each of fewer than 2^31 ids", "shape " + text(scores.shape));
  }
  job.first_id = first_id;
  job.scores = static_cast<const double*>(output(scores, "float64", scores.shape));
  if (std::isnan(parameters.min_score)) reject("min_score", "a number", "nan");
  same_place(labels, masks);
  same_place(labels, boxes);
  same_place(labels, scores);
  const PasteCounts counts = labels.place.cuda
                                 ? cuda::paste(labels.place, job, parameters.min_score)
                                 : cpu::paste(job, parameters.min_score);
  reject_rows(boxes.name, masks.name, counts.bad_box, counts.bad_score, counts.bad_value);
  return counts;
}

PastedLabels number_pasted(const Array& labels, int64_t n, int64_t min_size, const Array& index) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  auto* rows = static_cast<int64_t*>(output(index, "int64", {n}));
  same_place(labels, index);
  return labels.place.cuda ? cuda::number_pasted(labels.place, data, shape, n, min_size, rows)
                           : cpu::number_pasted(data, shape, n, min_size, rows);
}

}  // namespace cellpost::api
