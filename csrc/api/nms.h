// C++ contract of suppression, merging and fusion of detections.
#pragma once

#include <optional>

#include "api/array.h"
#include "api/paste.h"
#include "cpu/box_fusion.h"
#include "pipeline/nms.h"

namespace cellpost::api {

/// Detections, and where it is written what becomes of them.
struct NmsArrays {
  Array boxes;                   ///< (n, 4)
  Array scores;                  ///< (n,) float64
  std::optional<Array> classes;  ///< (n,) int64
  std::optional<Array> tiles;    ///< (n, 4) int32: y0, y1, x0, x1 of the tile of each
  Array keep, keeper;            ///< (n,) int64; see Suppressed
};

/// Instances' pixels, if overlaps are to be counted in them.
struct NmsMasks {
  Array masks;
  std::optional<CropTable> table;
  PasteParameters parameters;
  std::array<int64_t, 2> shape;
};

/// Returns how many stay. `merged`: (n, 4) float64.
int64_t nms(const NmsArrays& arrays, const SuppressRule& rule, const std::optional<NmsMasks>& masks,
            const std::optional<Array>& merged);

}  // namespace cellpost::api
