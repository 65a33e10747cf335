#include "cuda/properties.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

int64_t measure_objects(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                        const FloatView& intensity, const Properties& out, int64_t n_rows) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::measure_objects(exec, labels, shape, n, intensity, out, n_rows);
  });
}

int64_t instance_types(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                       const PixelTypes& types, int32_t* type, double* share, int64_t n_rows) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::instance_types(exec, labels, shape, n, types, type, share, n_rows);
  });
}

int64_t outlines(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                 int64_t* offsets, int32_t* points, int64_t n_rows) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::outlines(exec, labels, shape, n, offsets, points, n_rows);
  });
}

}  // namespace cellpost::cuda
