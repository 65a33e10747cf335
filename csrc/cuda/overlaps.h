// The overlaps family on a CUDA device. Contracts are those of pipeline/overlaps.h.
#pragma once

#include "core/place.h"
#include "pipeline/overlaps.h"

namespace cellpost::cuda {

PairCounts overlap_counts(const Place& place, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width);
PairCounts tile_overlaps(const Place& place, const TileList& tiles,
                         const std::vector<TilePair>& pairs);
std::vector<int32_t> bits_of_ids(const Place& place, const TileList& tiles);
TileSurvey survey_tiles(const Place& place, const TileList& tiles, const ImageCores& image,
                        const std::vector<TileRegion>& regions);
void compose_tiles(const Place& place, const TileList& tiles, const ImageCores& image,
                   const std::vector<int32_t>& map, int32_t* out);

}  // namespace cellpost::cuda
