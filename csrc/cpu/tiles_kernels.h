// The hot loop of the tiles family, compiled once for each instruction set and chosen at run time.
// All give the same bits.
#pragma once

#include "core/tiles.h"

namespace cellpost::cpu {

struct TileKernels {
  /// Blends the lines [begin, end). `lines` has room for twice the tiles that a line of the map
  /// meets.
  void (*blend)(const TileBlend& job, int64_t begin, int64_t end, TileLine* lines);
};

}  // namespace cellpost::cpu
