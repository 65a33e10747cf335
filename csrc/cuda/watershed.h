// The watershed family on a CUDA device, in stream order. Contracts are those of
// pipeline/watershed.h.
#pragma once

#include "core/place.h"

#include "pipeline/watershed.h"

namespace cellpost::cuda {

int64_t label(const Place& place, const MaskView& mask, const Shape& shape, int connectivity,
              int32_t* labels);
void fill_mask_holes(const Place& place, const MaskView& mask, const Shape& shape, int connectivity,
                     uint8_t* out);
void open_mask(const Place& place, const MaskView& mask, const Shape& shape,
               const Footprint& footprint, uint8_t* out);
int64_t watershed(const Place& place, const EnergyView& energy, const MaskView& mask,
                  const Shape& shape, int connectivity, int32_t* labels);
HoverRanges hover_ranges(const Place& place, const FloatView& hv, const Shape& shape,
                         const HoverOptions& options);
void hover_gradients(const Place& place, const FloatView& hv, const Shape& shape,
                     const HoverOptions& options, double* out);
HoverReport hover_watershed(const Place& place, const FloatView& hv, const Shape& shape,
                            const HoverOptions& options, int32_t* labels);
HoverReport watershed_markers(const Place& place, const FloatView& hv, const Shape& shape,
                              const HoverOptions& options, int32_t* markers, double* energy,
                              uint8_t* mask);

}  // namespace cellpost::cuda
