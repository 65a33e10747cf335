// C++ contract of the labels family. Labels are C-contiguous int32 images or volumes with ids >= 0
// (gaps allowed, the largest bounded by the pixels), changed in place.
#pragma once

#include "api/array.h"
#include "pipeline/labels.h"

namespace cellpost::api {

LabelRange label_range(const Array& labels);
/// The largest id; throws if there is a negative one, or one too large for a table of all ids.
int64_t largest_label(const Array& labels);
int64_t count_labels(const Array& labels);
FilterReport remove_small(const Array& labels, int64_t min_size);
FilterReport remove_large(const Array& labels, double max_size_fraction);
FilterReport fill_holes(const Array& labels, Nested nested);
FilterReport resolve_fragments(const Array& labels, Fragments mode);
int64_t relabel(const Array& labels);

}  // namespace cellpost::api
