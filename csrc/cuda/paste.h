// The paste family on a CUDA device. Contracts are those of pipeline/paste.h.
#pragma once

#include "core/place.h"
#include "pipeline/paste.h"

namespace cellpost::cuda {

PasteCounts paste(const Place& place, const Paste& job, double min_score);
PastedLabels number_pasted(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                           int64_t min_size, int64_t* index);

}  // namespace cellpost::cuda
