// Suppression of detections on a CUDA device. Contracts are those of pipeline/nms.h; `is_wide`:
// boxes are compared in float64, else float32.
#pragma once

#include "core/place.h"
#include "pipeline/nms.h"

namespace cellpost::cuda {

NmsResult nms(const Place& place, const Candidates& given, const SuppressRule& rule, bool is_wide,
              const Suppressed& out, double* merged);
NmsResult tile_nms(const Place& place, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out);
NmsResult mask_nms(const Place& place, const Paste& job, const Candidates& given,
                   const SuppressRule& rule, const Suppressed& out);

}  // namespace cellpost::cuda
