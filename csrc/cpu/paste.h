// The paste family on the CPU. Contracts are those of pipeline/paste.h.
#pragma once

#include "pipeline/paste.h"

namespace cellpost::cpu {

PasteCounts paste(const Paste& job, double min_score);
PastedLabels number_pasted(int32_t* labels, const Shape& shape, int64_t n, int64_t min_size,
                           int64_t* index);

}  // namespace cellpost::cpu
