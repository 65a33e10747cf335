// Measuring objects on a CUDA device, in stream order. Contracts are those of
// pipeline/properties.h.
#pragma once

#include "core/place.h"
#include "pipeline/properties.h"

namespace cellpost::cuda {

void measure_objects(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                     const FloatView& intensity, const Properties& out);
void instance_types(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                    const PixelTypes& types, int32_t* type, double* share);
int64_t outlines(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                 int64_t* offsets, int32_t* points);

}  // namespace cellpost::cuda
