#include "cpu/overlaps.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

PairCounts overlap_counts(const int32_t* a, const int32_t* b, int64_t rows, int64_t width) {
  Exec exec;
  return cellpost::overlap_counts(exec, a, b, rows, width);
}

PairCounts tile_overlaps(const TileLines& lines, const std::vector<const int32_t*>& tiles,
                         const std::vector<int64_t>& first, const std::vector<TilePair>& pairs) {
  Exec exec;
  return cellpost::tile_overlaps(exec, lines, tiles, first, pairs);
}

void compose_tiles(const ComposeTiles& job, const AxisTables (&axes)[3],
                   const std::vector<const int32_t*>& tiles, const std::vector<int64_t>& first,
                   const std::vector<int32_t>& map) {
  Exec exec;
  cellpost::compose_tiles(exec, job, axes, tiles, first, map);
}

}  // namespace cellpost::cpu
