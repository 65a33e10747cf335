#include "cuda/watershed.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

int64_t label(const Place& place, const MaskView& mask, const Shape& shape, int connectivity,
              int32_t* labels) {
  return run_at(
      place, [&](Exec& exec) { return cellpost::label(exec, mask, shape, connectivity, labels); });
}

void fill_mask_holes(const Place& place, const MaskView& mask, const Shape& shape, int connectivity,
                     uint8_t* out) {
  run_at(place,
         [&](Exec& exec) { cellpost::fill_mask_holes(exec, mask, shape, connectivity, out); });
}

void open_mask(const Place& place, const MaskView& mask, const Shape& shape,
               const Footprint& footprint, uint8_t* out) {
  run_at(place, [&](Exec& exec) { cellpost::open_mask(exec, mask, shape, footprint, out); });
}

int64_t watershed(const Place& place, const EnergyView& energy, const MaskView& mask,
                  const Shape& shape, int connectivity, int32_t* labels) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::watershed(exec, energy, mask, shape, connectivity, labels);
  });
}

HoverRanges hover_ranges(const Place& place, const FloatView& hv, const Shape& shape,
                         const HoverOptions& options) {
  return run_at(place,
                [&](Exec& exec) { return cellpost::hover_ranges(exec, hv, shape, options); });
}

void hover_gradients(const Place& place, const FloatView& hv, const Shape& shape,
                     const HoverOptions& options, double* out) {
  run_at(place, [&](Exec& exec) { cellpost::hover_gradients(exec, hv, shape, options, out); });
}

HoverReport hover_watershed(const Place& place, const FloatView& hv, const Shape& shape,
                            const HoverOptions& options, int32_t* labels) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::hover_watershed(exec, hv, shape, options, labels);
  });
}

HoverReport watershed_markers(const Place& place, const FloatView& hv, const Shape& shape,
                              const HoverOptions& options, int32_t* markers, double* energy,
                              uint8_t* mask) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::watershed_markers(exec, hv, shape, options, markers, energy, mask);
  });
}

}  // namespace cellpost::cuda
