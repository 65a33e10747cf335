// The overlaps family on the CPU. Contracts are those of pipeline/overlaps.h.
#pragma once

#include "pipeline/overlaps.h"

namespace cellpost::cpu {

PairCounts overlap_counts(const int32_t* a, const int32_t* b, int64_t rows, int64_t width);
PairCounts tile_overlaps(const TileLines& lines, const std::vector<const int32_t*>& tiles,
                         const std::vector<int64_t>& first, const std::vector<TilePair>& pairs);
void compose_tiles(const ComposeTiles& job, const AxisTables (&axes)[3],
                   const std::vector<const int32_t*>& tiles, const std::vector<int64_t>& first,
                   const std::vector<int32_t>& map);

}  // namespace cellpost::cpu
