// The tiles family on a CUDA device. Contracts are those of pipeline/tiles.h.
#pragma once

#include "core/place.h"
#include "pipeline/tiles.h"

namespace cellpost::cuda {

int64_t stitch(const Place& place, const TileBlend& job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles);

}  // namespace cellpost::cuda
