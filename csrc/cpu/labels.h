// The labels family on the CPU. Contracts are those of pipeline/labels.h.
#pragma once

#include "pipeline/labels.h"

namespace cellpost::cpu {

LabelRange label_range(const int32_t* labels, const Shape& shape);
FilterReport remove_by_size(int32_t* labels, const Shape& shape, int64_t n, int64_t minimum,
                            int64_t maximum);
FilterReport fill_holes(int32_t* labels, const Shape& shape, int64_t n, Nested nested);
FilterReport resolve_fragments(int32_t* labels, const Shape& shape, int64_t n, Fragments mode);
int64_t count_labels(int32_t* labels, const Shape& shape, int64_t n);
int64_t relabel(int32_t* labels, const Shape& shape, int64_t n);

}  // namespace cellpost::cpu
