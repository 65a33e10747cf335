// The overlaps family on a CUDA device. Contracts are those of pipeline/overlaps.h.
#pragma once

#include "core/place.h"
#include "pipeline/overlaps.h"

namespace cellpost::cuda {

PairCounts overlap_counts(const Place& place, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width);
PairCounts tile_overlaps(const Place& place, const TileLines& lines,
                         const std::vector<const int32_t*>& tiles,
                         const std::vector<int64_t>& first, const std::vector<TilePair>& pairs);
void compose_tiles(const Place& place, const ComposeTiles& job, const AxisTables (&axes)[3],
                   const std::vector<const int32_t*>& tiles, const std::vector<int64_t>& first,
                   const std::vector<int32_t>& map);

}  // namespace cellpost::cuda
