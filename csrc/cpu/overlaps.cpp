#include "cpu/overlaps.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

PairCounts overlap_counts(const int32_t* a, const int32_t* b, int64_t rows, int64_t width) {
  Exec exec;
  return cellpost::overlap_counts(exec, a, b, rows, width);
}

PairCounts tile_overlaps(const TileList& tiles, const std::vector<TilePair>& pairs) {
  Exec exec;
  return cellpost::tile_overlaps(exec, tiles, pairs);
}

std::vector<int32_t> bits_of_ids(const TileList& tiles) {
  Exec exec;
  return cellpost::bits_of_ids(exec, tiles);
}

TileSurvey survey_tiles(const TileList& tiles, const ImageCores& image,
                        const std::vector<TileRegion>& regions) {
  Exec exec;
  return cellpost::survey_tiles(exec, tiles, image, regions);
}

void compose_tiles(const TileList& tiles, const ImageCores& image, const std::vector<int32_t>& map,
                   int32_t* out) {
  Exec exec;
  cellpost::compose_tiles(exec, tiles, image, map, out);
}

}  // namespace cellpost::cpu
