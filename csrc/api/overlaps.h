// C++ contract of the overlaps family.
#pragma once

#include "api/array.h"
#include "pipeline/overlaps.h"

namespace cellpost::api {

/// Pixels that labels a and b share, int32 and contiguous, of one shape: keys are a << 32 | b.
PairCounts overlap_counts(const Array& a, const Array& b);

/// Label tiles: int32, contiguous, of one shape and place. Tile i's ids are 0 and more, below
/// first[i + 1] - first[i]; `first` begins with 0 and has one more than the tiles are.
struct Tiles {
  const std::vector<Array>& arrays;
  const std::vector<int64_t>& first;
};

/// Pixels that ids of two tiles share where both lie, for each of the pairs: keys are made of
/// first[tile] + id.
PairCounts tile_overlaps(const Tiles& tiles, const std::vector<TilePair>& pairs);

/// Each tile's ids, all joined by OR: no id is larger, and it is negative if one is.
std::vector<int32_t> bits_of_ids(const std::vector<Array>& tiles);

/// The parts of an image of `size` that the tiles give: axes[k] has their starts, and the begins
/// and ends of their cores.
struct Cores {
  const std::vector<AxisTables>& axes;
  const std::vector<int64_t>& size;
};

/// Of each id, first[tile] + id, its first pixel in what the cores give; the marks of the regions
/// it lies in, joined by OR.
TileSurvey survey_tiles(const Tiles& tiles, const Cores& cores,
                        const std::vector<TileRegion>& regions);

/// Writes to `out`, int32, for each pixel map[first[tile] + id] of the tile whose core it lies in.
void compose_tiles(const Tiles& tiles, const std::vector<AxisTables>& axes,
                   const std::vector<int32_t>& map, const Array& out);

}  // namespace cellpost::api
