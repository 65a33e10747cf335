// Counting what label images share, and putting label tiles together, written once for both
// devices; Exec is described in pipeline/labels.h. Its own kernel for this family:
// count_pairs(n_lines, width, lines, keys, counts), with `lines(i)` a LinePair of up to `width`
// pixels: keys of pairs and their pixels, in any order, a key once or more often.
#pragma once

#include <vector>

#include "core/overlaps.h"
#include "pipeline/tiles.h"

namespace cellpost {

/// Ascending keys, and the pixels of each.
struct PairCounts {
  std::vector<int64_t> keys, counts;
};

template <class Exec, class Lines>
PairCounts count_pairs(Exec& exec, int64_t n_lines, int64_t width, const Lines& lines) {
  auto keys = exec.template alloc<int64_t>(0);
  auto counts = exec.template alloc<int64_t>(0);
  exec.count_pairs(n_lines, width, lines, keys, counts);
  const int64_t n = keys.size();
  exec.sort_by(keys, counts);
  auto starts = exec.template select<int64_t>(0, n, IsFirstOfKey{keys.data()});
  const int64_t n_keys = starts.size();
  auto key = exec.template alloc<int64_t>(n_keys);
  auto count = exec.template alloc<int64_t>(n_keys);
  exec.for_each(n_keys, SumOfKey{keys.data(), counts.data(), starts.data(), n_keys, n, key.data(),
                                 count.data()});
  return {exec.copy_out(key.data(), n_keys), exec.copy_out(count.data(), n_keys)};
}

template <class Exec>
PairCounts overlap_counts(Exec& exec, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width) {
  return count_pairs(exec, rows, width, ImageLines{a, b, width});
}

/// `lines` without its tables, which are given in host memory.
template <class Exec>
PairCounts tile_overlaps(Exec& exec, TileLines lines, const std::vector<const int32_t*>& tiles,
                         const std::vector<int64_t>& first, const std::vector<TilePair>& pairs) {
  int64_t width = 0;
  lines.most = 0;
  for (const TilePair& pair : pairs) {
    lines.most = std::max(lines.most, pair.size[0] * pair.size[1]);
    width = std::max(width, pair.size[2]);
  }
  auto all_tiles = exec.copy_in(tiles.data(), static_cast<int64_t>(tiles.size()));
  auto all_first = exec.copy_in(first.data(), static_cast<int64_t>(first.size()));
  auto all_pairs = exec.copy_in(pairs.data(), static_cast<int64_t>(pairs.size()));
  lines.tiles = all_tiles.data();
  lines.first = all_first.data();
  lines.pairs = all_pairs.data();
  return count_pairs(exec, static_cast<int64_t>(pairs.size()) * lines.most, width, lines);
}

/// `job` without its tables, which are given in host memory.
template <class Exec>
void compose_tiles(Exec& exec, ComposeTiles job, const AxisTables (&axes)[3],
                   const std::vector<const int32_t*>& tiles, const std::vector<int64_t>& first,
                   const std::vector<int32_t>& map) {
  const PlacedAxes<Exec> placed(exec, axes, job.axis);
  auto all_tiles = exec.copy_in(tiles.data(), static_cast<int64_t>(tiles.size()));
  auto all_first = exec.copy_in(first.data(), static_cast<int64_t>(first.size()));
  auto all_map = exec.copy_in(map.data(), static_cast<int64_t>(map.size()));
  job.tiles = all_tiles.data();
  job.first = all_first.data();
  job.map = all_map.data();
  exec.for_each_object(job.size[0] * job.size[1] * job.axis[2].n, job);
  exec.read(all_map.data());  // the tables are needed until the work is done
}

}  // namespace cellpost
