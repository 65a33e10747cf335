#include "cuda/nms.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

NmsResult nms(const Place& place, const Candidates& given, const SuppressRule& rule, bool is_wide,
              const Suppressed& out, double* merged) {
  return run_at(place, [&](Exec& exec) {
    return is_wide ? cellpost::nms<double>(exec, given, rule, out, merged)
                   : cellpost::nms<float>(exec, given, rule, out, merged);
  });
}

NmsResult tile_nms(const Place& place, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out) {
  return run_at(place, [&](Exec& exec) { return cellpost::tile_nms(exec, given, rule, out); });
}

NmsResult mask_nms(const Place& place, const Paste& job, const Candidates& given,
                   const SuppressRule& rule, const Suppressed& out) {
  return run_at(place, [&](Exec& exec) { return cellpost::mask_nms(exec, job, given, rule, out); });
}

}  // namespace cellpost::cuda
