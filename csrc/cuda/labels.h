// The labels family on a CUDA device, in stream order. Contracts are those of pipeline/labels.h.
#pragma once

#include "core/place.h"
#include "pipeline/labels.h"

namespace cellpost::cuda {

LabelRange label_range(const Place& place, const int32_t* labels, const Shape& shape);
FilterReport remove_by_size(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                            int64_t minimum, int64_t maximum);
FilterReport fill_holes(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                        Nested nested);
FilterReport resolve_fragments(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                               Fragments mode);
int64_t count_labels(const Place& place, int32_t* labels, const Shape& shape, int64_t n);
int64_t relabel(const Place& place, int32_t* labels, const Shape& shape, int64_t n);

}  // namespace cellpost::cuda
