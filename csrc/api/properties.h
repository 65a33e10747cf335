// C++ contract of measuring objects. Labels are as api/labels.h has them, but only read; results
// are C-contiguous, with a row for each object that is present (api::count_labels), in ascending
// order of id.
#pragma once

#include <optional>

#include "api/array.h"

namespace cellpost::api {

struct PropertyArrays {
  Array label, area, bbox, centroid, covariance;  ///< int32, int64, int64, float64, float64
  std::optional<Array> perimeter;                 ///< float64
  std::optional<Array> mean, smallest, largest;   ///< float64; all or none
};

void measure_objects(const Array& labels, const std::optional<Array>& intensity,
                     const PropertyArrays& out);
/// Types are an int32 map (H, W) of ids below n_types, or a float map (n_types, H, W).
void instance_types(const Array& labels, const Array& types, int64_t n_types, const Array& type,
                    const Array& share);
/// Fills offsets (n + 1,), the last of which is the number of points.
void find_outlines(const Array& labels, const Array& offsets);
/// Fills points (n_points, 2), x and y, int32.
void trace_outlines(const Array& labels, const Array& offsets, const Array& points);

}  // namespace cellpost::api
