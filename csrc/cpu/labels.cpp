#include "cpu/labels.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

LabelRange label_range(const int32_t* labels, const Shape& shape) {
  Exec exec;
  return cellpost::label_range(exec, labels, shape);
}

FilterReport remove_by_size(int32_t* labels, const Shape& shape, int64_t n, int64_t minimum,
                            int64_t maximum) {
  Exec exec;
  return cellpost::remove_by_size(exec, labels, shape, n, minimum, maximum);
}

FilterReport fill_holes(int32_t* labels, const Shape& shape, int64_t n, Nested nested) {
  Exec exec;
  return cellpost::fill_holes(exec, labels, shape, n, nested);
}

FilterReport resolve_fragments(int32_t* labels, const Shape& shape, int64_t n, Fragments mode) {
  Exec exec;
  return cellpost::resolve_fragments(exec, labels, shape, n, mode);
}

int64_t count_labels(int32_t* labels, const Shape& shape, int64_t n) {
  Exec exec;
  return cellpost::count_labels(exec, labels, shape, n);
}

int64_t relabel(int32_t* labels, const Shape& shape, int64_t n) {
  Exec exec;
  return cellpost::relabel(exec, labels, shape, n);
}

}  // namespace cellpost::cpu
