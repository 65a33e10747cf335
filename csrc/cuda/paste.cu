#include "cuda/paste.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

PasteCounts paste(const Place& place, const Paste& job, double min_score) {
  return run_at(place, [&](Exec& exec) { return cellpost::paste(exec, job, min_score); });
}

PastedLabels number_pasted(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                           int64_t min_size, int64_t* index) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::number_pasted(exec, labels, shape, n, min_size, index);
  });
}

}  // namespace cellpost::cuda
