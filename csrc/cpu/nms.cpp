#include "cpu/nms.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

NmsResult nms(const Candidates& given, const SuppressRule& rule, bool is_wide,
              const Suppressed& out, double* merged) {
  Exec exec;
  return is_wide ? cellpost::nms<double>(exec, given, rule, out, merged)
                 : cellpost::nms<float>(exec, given, rule, out, merged);
}

NmsResult tile_nms(const Candidates& given, const SuppressRule& rule, const Suppressed& out) {
  Exec exec;
  return cellpost::tile_nms(exec, given, rule, out);
}

NmsResult mask_nms(const Paste& job, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out) {
  Exec exec;
  return cellpost::mask_nms(exec, job, given, rule, out);
}

}  // namespace cellpost::cpu
