#include "cuda/overlaps.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

PairCounts overlap_counts(const Place& place, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width) {
  return run_at(place,
                [&](Exec& exec) { return cellpost::overlap_counts(exec, a, b, rows, width); });
}

PairCounts tile_overlaps(const Place& place, const TileLines& lines,
                         const std::vector<const int32_t*>& tiles,
                         const std::vector<int64_t>& first, const std::vector<TilePair>& pairs) {
  return run_at(
      place, [&](Exec& exec) { return cellpost::tile_overlaps(exec, lines, tiles, first, pairs); });
}

void compose_tiles(const Place& place, const ComposeTiles& job, const AxisTables (&axes)[3],
                   const std::vector<const int32_t*>& tiles, const std::vector<int64_t>& first,
                   const std::vector<int32_t>& map) {
  run_at(place, [&](Exec& exec) { cellpost::compose_tiles(exec, job, axes, tiles, first, map); });
}

}  // namespace cellpost::cuda
