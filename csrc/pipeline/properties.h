// Measuring objects, written once for both devices (Exec: see pipeline/labels.h). Results have a
// row for each object that is present, in ascending order of id. All functions return how many
// objects there are, and write nothing if that is not the number of rows.
#pragma once

#include <algorithm>

#include "core/labels_properties.h"
#include "pipeline/labels.h"

namespace cellpost {

/// Where the results go; arrays of as many rows as there are objects. Those that are null are not
/// measured.
struct Properties {
  int32_t* label;
  int64_t* area;
  int64_t* bbox;
  double* centroid;
  double* covariance;
  double* perimeter;     ///< 2D only
  double* intensity[3];  ///< mean, smallest, largest
};

template <class Exec>
int64_t measure_objects(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                        const FloatView& intensity, const Properties& out, int64_t n_rows) {
  Objects<Exec> objects(exec, shape, labels, n);
  const ObjectTable& table = objects.table();
  auto ids = objects.kept();
  if (ids.size() != n_rows) return ids.size();
  {
    auto sums = exec.template alloc<int64_t>(SecondSums::kPairs * (n + 1));
    SecondSums second{};
    for (int k = 0; k < SecondSums::kPairs; ++k) second.sum[k] = sums.data() + k * (n + 1);
    exec.for_each(n + 1, ClearSums{second});
    exec.for_each_pixel(shape.rows(), shape.x, AddSecondSums{labels, shape, table, second});
    exec.for_each(ids.size(), WriteProperties{table, second, shape.ndim, ids.data(), out.label,
                                              out.area, out.bbox, out.centroid, out.covariance});
  }
  if (out.perimeter != nullptr) {
    auto counts = exec.template alloc<int64_t>(3 * (n + 1));
    int64_t* const count[3] = {counts.data(), counts.data() + (n + 1), counts.data() + 2 * (n + 1)};
    exec.for_each(n + 1, ClearBorder{{count[0], count[1], count[2]}});
    exec.for_each_pixel(shape.rows(), shape.x,
                        CountBorder{labels, shape, {count[0], count[1], count[2]}});
    exec.for_each(ids.size(),
                  WritePerimeter{ids.data(), {count[0], count[1], count[2]}, out.perimeter});
  }
  if (out.intensity[0] != nullptr) {
    exec.for_each_object(
        ids.size(), MeasureIntensity{labels, shape, table, intensity, ids.data(), out.intensity[0],
                                     out.intensity[1], out.intensity[2]});
  }
  return n_rows;
}

template <class Exec>
int64_t instance_types(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                       const PixelTypes& types, int32_t* type, double* share, int64_t n_rows) {
  Objects<Exec> objects(exec, shape, labels, n);
  auto ids = objects.kept();
  if (ids.size() != n_rows) return ids.size();
  // All objects' counts at once could dwarf the image: they go in batches.
  const int64_t batch = std::max<int64_t>(1, shape.pixels() / (4 * types.n_types));
  auto count = exec.template alloc<int32_t>(std::min(batch, ids.size()) * types.n_types);
  for (int64_t first = 0; first < ids.size(); first += batch) {
    exec.for_each_object(std::min(batch, ids.size() - first),
                         FindType{labels, shape, objects.table(), types, ids.data(), first,
                                  count.data(), type, share});
  }
  return n_rows;
}

/// Without points, offsets (n_rows + 1) becomes where each outline begins; else it is read.
template <class Exec>
int64_t outlines(Exec& exec, int32_t* labels, const Shape& shape, int64_t n, int64_t* offsets,
                 int32_t* points, int64_t n_rows) {
  Objects<Exec> objects(exec, shape, labels, n);
  auto ids = objects.kept();
  if (ids.size() != n_rows) return ids.size();
  exec.for_each_object(ids.size(),
                       TraceOutline{labels, shape, objects.table(), ids.data(), offsets, points});
  if (points == nullptr) {
    exec.fill(offsets + n_rows, 1, int64_t{0});
    exec.scan(offsets, n_rows + 1);
  }
  return n_rows;
}

}  // namespace cellpost
