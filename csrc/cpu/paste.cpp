#include "cpu/paste.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

PasteCounts paste(const Paste& job, double min_score) {
  Exec exec;
  return cellpost::paste(exec, job, min_score);
}

PastedLabels number_pasted(int32_t* labels, const Shape& shape, int64_t n, int64_t min_size,
                           int64_t* index) {
  Exec exec;
  return cellpost::number_pasted(exec, labels, shape, n, min_size, index);
}

}  // namespace cellpost::cpu
