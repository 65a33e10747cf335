// The overlaps family on the CPU. Contracts are those of pipeline/overlaps.h.
#pragma once

#include "pipeline/overlaps.h"

namespace cellpost::cpu {

PairCounts overlap_counts(const int32_t* a, const int32_t* b, int64_t rows, int64_t width);
PairCounts tile_overlaps(const TileList& tiles, const std::vector<TilePair>& pairs);
std::vector<int32_t> bits_of_ids(const TileList& tiles);
TileSurvey survey_tiles(const TileList& tiles, const ImageCores& image,
                        const std::vector<TileRegion>& regions);
void compose_tiles(const TileList& tiles, const ImageCores& image, const std::vector<int32_t>& map,
                   int32_t* out);

}  // namespace cellpost::cpu
