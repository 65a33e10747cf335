#include "api/properties.h"

#include "api/check.h"
#include "api/labels.h"
#include "cpu/properties.h"
#include "cuda/properties.h"

namespace cellpost::api {
namespace {

/// The kernels count in a table of objects and types.
constexpr int64_t kMostTypes = 4096;

struct Labels {
  Shape shape;
  int32_t* data;
  int64_t n_ids;

  explicit Labels(const Array& labels)
      : data(labels_in_place(labels, &shape)), n_ids(largest_label(labels)) {}
};

void check_2d(const Array& labels, const Shape& shape) {
  if (shape.ndim != 2) reject(labels.name, "2 axes (H, W)", "shape " + text(labels.shape));
}

/// Rows of the results; `first` is one of them.
int64_t n_rows_of(const Array& first) {
  if (first.shape.size() != 1) reject(first.name, "1 axis", "shape " + text(first.shape));
  return first.shape[0];
}

void check_rows(const Array& first, int64_t n_rows, int64_t n_objects) {
  if (n_rows != n_objects) {
    reject(first.name, std::to_string(n_objects) + " objects", std::to_string(n_rows));
  }
}

template <class T>
T* rows(const Array& labels, const Array& out, const char* dtype, std::vector<int64_t> shape) {
  same_place(labels, out);
  return static_cast<T*>(output(out, dtype, shape));
}

void outlines(const Array& labels, const Array& offsets, const Array* points) {
  const Labels in(labels);
  check_2d(labels, in.shape);
  const int64_t n = n_rows_of(offsets) - 1;
  auto* first = rows<int64_t>(labels, offsets, "int64", {n + 1});
  int32_t* xy = nullptr;
  if (points != nullptr) {
    if (points->shape.size() != 2) reject(points->name, "shape (n, 2)", text(points->shape));
    xy = rows<int32_t>(labels, *points, "int32", {points->shape[0], 2});
    if (points->shape[0] == 0) return;
  }
  check_rows(offsets, n,
             labels.place.cuda
                 ? cuda::outlines(labels.place, in.data, in.shape, in.n_ids, first, xy, n)
                 : cpu::outlines(in.data, in.shape, in.n_ids, first, xy, n));
}

}  // namespace

void measure_objects(const Array& labels, const std::optional<Array>& intensity,
                     const PropertyArrays& out) {
  const Labels in(labels);
  const int64_t n = n_rows_of(out.label), ndim = in.shape.ndim;
  Properties to{};
  to.label = rows<int32_t>(labels, out.label, "int32", {n});
  to.area = rows<int64_t>(labels, out.area, "int64", {n});
  to.bbox = rows<int64_t>(labels, out.bbox, "int64", {n, 2 * ndim});
  to.centroid = rows<double>(labels, out.centroid, "float64", {n, ndim});
  to.covariance = rows<double>(labels, out.covariance, "float64", {n, ndim, ndim});
  if (out.perimeter) {
    check_2d(labels, in.shape);
    to.perimeter = rows<double>(labels, *out.perimeter, "float64", {n});
  }
  FloatView values{};
  if (intensity) {
    values = map_view(*intensity, in.shape);
    same_place(labels, *intensity);
    to.intensity[0] = rows<double>(labels, out.mean.value(), "float64", {n});
    to.intensity[1] = rows<double>(labels, out.smallest.value(), "float64", {n});
    to.intensity[2] = rows<double>(labels, out.largest.value(), "float64", {n});
  }
  check_rows(out.label, n,
             labels.place.cuda
                 ? cuda::measure_objects(labels.place, in.data, in.shape, in.n_ids, values, to, n)
                 : cpu::measure_objects(in.data, in.shape, in.n_ids, values, to, n));
}

void instance_types(const Array& labels, const Array& types, int64_t n_types, const Array& type,
                    const Array& share) {
  const Labels in(labels);
  check_2d(labels, in.shape);
  same_place(labels, types);
  if (n_types < 1 || n_types > kMostTypes) {
    reject(types.name, "1 to " + std::to_string(kMostTypes) + " types", std::to_string(n_types));
  }
  PixelTypes pixels{};
  pixels.n_types = static_cast<int32_t>(n_types);
  pixels.shape = in.shape;
  if (types.shape.size() == 2) {
    const LabelRange range = label_range(types);
    if (types.shape != labels.shape) {
      reject(types.name, "shape " + text(labels.shape), "shape " + text(types.shape));
    }
    if (range.low < 0 || range.high >= n_types) {
      reject(types.name, "types from 0 to " + std::to_string(n_types - 1),
             std::to_string(range.low < 0 ? range.low : range.high));
    }
    pixels.map = static_cast<const int32_t*>(types.data);
  } else {
    const std::vector<int64_t> expected{n_types, in.shape.y, in.shape.x};
    if (types.shape != expected) {
      reject(types.name, "shape " + text(expected), "shape " + text(types.shape));
    }
    pixels.channels = float_view(types, true);
  }
  const int64_t n = n_rows_of(type);
  auto* best = rows<int32_t>(labels, type, "int32", {n});
  auto* part = rows<double>(labels, share, "float64", {n});
  check_rows(
      type, n,
      labels.place.cuda
          ? cuda::instance_types(labels.place, in.data, in.shape, in.n_ids, pixels, best, part, n)
          : cpu::instance_types(in.data, in.shape, in.n_ids, pixels, best, part, n));
}

void find_outlines(const Array& labels, const Array& offsets) {
  outlines(labels, offsets, nullptr);
}

void trace_outlines(const Array& labels, const Array& offsets, const Array& points) {
  outlines(labels, offsets, &points);
}

}  // namespace cellpost::api
