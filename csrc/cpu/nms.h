// Suppression of detections on the CPU. Contracts are those of pipeline/nms.h; `is_wide`:
// boxes are compared in float64, else float32.
#pragma once

#include "pipeline/nms.h"

namespace cellpost::cpu {

NmsResult nms(const Candidates& given, const SuppressRule& rule, bool is_wide,
              const Suppressed& out, double* merged);
NmsResult tile_nms(const Candidates& given, const SuppressRule& rule, const Suppressed& out);
NmsResult mask_nms(const Paste& job, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out);

}  // namespace cellpost::cpu
