// C++ contract of the paste family.
#pragma once

#include <array>
#include <optional>

#include "api/array.h"
#include "pipeline/paste.h"

namespace cellpost::api {

struct PasteParameters {
  PasteStyle style = PasteStyle::detectron2;
  double threshold = 0.5;
  double min_score = 0.0;
  std::array<int64_t, 2> offset{0, 0};  ///< y, x of the boxes' origin in the label image
};

/// Crops of differing sizes, which follow each other in one line.
struct CropTable {
  Array start;  ///< (n,), int64
  Array sizes;  ///< (n, 2), int32: height, width
};

/// Where the instances lie in an image of `shape`; without ids, scores and labels.
Paste paste_job(const Array& masks, const std::optional<CropTable>& table, const Array& boxes,
                const PasteParameters& parameters, const Shape& shape);
/// Throws if there is a row (not -1) that cannot be used.
void reject_rows(const std::string& boxes, const std::string& masks, int64_t bad_box,
                 int64_t bad_score, int64_t bad_value);

/// Pastes masks (n, h, w), or with a table (values,), at boxes (n, 4) into `labels`, (H, W) int32,
/// as the ids from first_id on. `scores`, float64, are those of all ids from 1 on.
PasteCounts paste(const Array& masks, const std::optional<CropTable>& table, const Array& boxes,
                  const Array& scores, const Array& labels, int64_t first_id,
                  const PasteParameters& parameters);

/// Turns the ids 1..n of `labels` into labels in raster order; `index`, (n,) int64, is written up
/// to the number of labels.
PastedLabels number_pasted(const Array& labels, int64_t n, int64_t min_size, const Array& index);

}  // namespace cellpost::api
