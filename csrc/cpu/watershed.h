// The watershed family on the CPU. Contracts are those of pipeline/watershed.h.
#pragma once

#include "pipeline/watershed.h"

namespace cellpost::cpu {

int64_t label(const MaskView& mask, const Shape& shape, int connectivity, int32_t* labels);
void fill_mask_holes(const MaskView& mask, const Shape& shape, int connectivity, uint8_t* out);
void open_mask(const MaskView& mask, const Shape& shape, const Footprint& footprint, uint8_t* out);
int64_t watershed(const EnergyView& energy, const MaskView& mask, const Shape& shape,
                  int connectivity, int32_t* labels);
HoverRanges hover_ranges(const FloatView& hv, const Shape& shape, const HoverOptions& options);
void hover_gradients(const FloatView& hv, const Shape& shape, const HoverOptions& options,
                     double* out);
HoverReport hover_watershed(const FloatView& hv, const Shape& shape, const HoverOptions& options,
                            int32_t* labels);
HoverReport watershed_markers(const FloatView& hv, const Shape& shape, const HoverOptions& options,
                              int32_t* markers, double* energy, uint8_t* mask);

}  // namespace cellpost::cpu
