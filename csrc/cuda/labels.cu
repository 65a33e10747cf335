#include "cuda/labels.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

LabelRange label_range(const Place& place, const int32_t* labels, const Shape& shape) {
  return run_at(place, [&](Exec& exec) { return cellpost::label_range(exec, labels, shape); });
}

FilterReport remove_by_size(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                            int64_t minimum, int64_t maximum) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::remove_by_size(exec, labels, shape, n, minimum, maximum);
  });
}

FilterReport fill_holes(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                        Nested nested) {
  return run_at(place,
                [&](Exec& exec) { return cellpost::fill_holes(exec, labels, shape, n, nested); });
}

FilterReport resolve_fragments(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                               Fragments mode) {
  return run_at(
      place, [&](Exec& exec) { return cellpost::resolve_fragments(exec, labels, shape, n, mode); });
}

int64_t count_labels(const Place& place, int32_t* labels, const Shape& shape, int64_t n) {
  return run_at(place, [&](Exec& exec) { return cellpost::count_labels(exec, labels, shape, n); });
}

int64_t relabel(const Place& place, int32_t* labels, const Shape& shape, int64_t n) {
  return run_at(place, [&](Exec& exec) { return cellpost::relabel(exec, labels, shape, n); });
}

}  // namespace cellpost::cuda
