#include "cuda/properties.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

void measure_objects(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                     const FloatView& intensity, const Properties& out) {
  run_at(place,
         [&](Exec& exec) { cellpost::measure_objects(exec, labels, shape, n, intensity, out); });
}

void instance_types(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                    const PixelTypes& types, int32_t* type, double* share) {
  run_at(place,
         [&](Exec& exec) { cellpost::instance_types(exec, labels, shape, n, types, type, share); });
}

int64_t outlines(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                 int64_t* offsets, int32_t* points) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::outlines(exec, labels, shape, n, offsets, points);
  });
}

}  // namespace cellpost::cuda
