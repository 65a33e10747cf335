#include "api/labels.h"

#include "api/check.h"
#include "cpu/labels.h"
#include "cuda/labels.h"

namespace cellpost::api {
namespace {

/// Tables have a row for each id up to the largest; beyond this they would dwarf the image.
int64_t most_ids(const Shape& shape) { return 4 * shape.pixels() + (int64_t{1} << 20); }

FilterReport remove_by_size(const Array& labels, int64_t minimum, int64_t maximum) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return {};
  return labels.place.cuda ? cuda::remove_by_size(labels.place, data, shape, n, minimum, maximum)
                           : cpu::remove_by_size(data, shape, n, minimum, maximum);
}

}  // namespace

LabelRange label_range(const Array& labels) {
  Shape shape;
  const int32_t* data = labels_in_place(labels, &shape);
  if (shape.pixels() == 0) return {0, 0};
  return labels.place.cuda ? cuda::label_range(labels.place, data, shape)
                           : cpu::label_range(data, shape);
}

int64_t largest_label(const Array& labels) {
  const LabelRange range = label_range(labels);
  if (range.low < 0) reject(labels.name, "ids >= 0", std::to_string(range.low));
  const Shape shape = image_shape(labels);
  if (range.high > most_ids(shape)) {
    reject(labels.name,
           "ids up to " + std::to_string(most_ids(shape)) + " in an image of this size",
           std::to_string(range.high));
  }
  return range.high;
}

int64_t count_labels(const Array& labels) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return 0;
  return labels.place.cuda ? cuda::count_labels(labels.place, data, shape, n)
                           : cpu::count_labels(data, shape, n);
}

FilterReport remove_small(const Array& labels, int64_t min_size) {
  return remove_by_size(labels, min_size, INT64_MAX);
}

FilterReport remove_large(const Array& labels, double max_size_fraction) {
  if (!(max_size_fraction >= 0.0)) {
    reject("max_size_fraction", "a number >= 0", std::to_string(max_size_fraction));
  }
  return remove_by_size(labels, 1, largest_allowed(image_shape(labels), max_size_fraction));
}

FilterReport fill_holes(const Array& labels, Nested nested) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return {};
  return labels.place.cuda ? cuda::fill_holes(labels.place, data, shape, n, nested)
                           : cpu::fill_holes(data, shape, n, nested);
}

FilterReport resolve_fragments(const Array& labels, Fragments mode) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return {};
  return labels.place.cuda ? cuda::resolve_fragments(labels.place, data, shape, n, mode)
                           : cpu::resolve_fragments(data, shape, n, mode);
}

int64_t relabel(const Array& labels) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return 0;
  return labels.place.cuda ? cuda::relabel(labels.place, data, shape, n)
                           : cpu::relabel(data, shape, n);
}

}  // namespace cellpost::api
