#include "cpu/properties.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

void measure_objects(int32_t* labels, const Shape& shape, int64_t n, const FloatView& intensity,
                     const Properties& out) {
  Exec exec;
  cellpost::measure_objects(exec, labels, shape, n, intensity, out);
}

void instance_types(int32_t* labels, const Shape& shape, int64_t n, const PixelTypes& types,
                    int32_t* type, double* share) {
  Exec exec;
  cellpost::instance_types(exec, labels, shape, n, types, type, share);
}

int64_t outlines(int32_t* labels, const Shape& shape, int64_t n, int64_t* offsets,
                 int32_t* points) {
  Exec exec;
  return cellpost::outlines(exec, labels, shape, n, offsets, points);
}

}  // namespace cellpost::cpu
