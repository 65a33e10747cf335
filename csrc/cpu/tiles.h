// The tiles family on the CPU. Contracts are those of pipeline/tiles.h.
#pragma once

#include "pipeline/tiles.h"

namespace cellpost::cpu {

int64_t stitch(const TileBlend& job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles);

}  // namespace cellpost::cpu
