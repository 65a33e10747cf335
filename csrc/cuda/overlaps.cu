#include "cuda/overlaps.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

PairCounts overlap_counts(const Place& place, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width) {
  return run_at(place,
                [&](Exec& exec) { return cellpost::overlap_counts(exec, a, b, rows, width); });
}

PairCounts tile_overlaps(const Place& place, const TileList& tiles,
                         const std::vector<TilePair>& pairs) {
  return run_at(place, [&](Exec& exec) { return cellpost::tile_overlaps(exec, tiles, pairs); });
}

std::vector<int32_t> bits_of_ids(const Place& place, const TileList& tiles) {
  return run_at(place, [&](Exec& exec) { return cellpost::bits_of_ids(exec, tiles); });
}

TileSurvey survey_tiles(const Place& place, const TileList& tiles, const ImageCores& image,
                        const std::vector<TileRegion>& regions) {
  return run_at(place,
                [&](Exec& exec) { return cellpost::survey_tiles(exec, tiles, image, regions); });
}

void compose_tiles(const Place& place, const TileList& tiles, const ImageCores& image,
                   const std::vector<int32_t>& map, int32_t* out) {
  run_at(place, [&](Exec& exec) { return cellpost::compose_tiles(exec, tiles, image, map, out); });
}

}  // namespace cellpost::cuda
