// C++ contract of the overlaps family.
#pragma once

#include "api/array.h"
#include "pipeline/overlaps.h"

namespace cellpost::api {

/// Pixels that labels a and b share, int32 and contiguous, of one shape: keys are a << 32 | b.
PairCounts overlap_counts(const Array& a, const Array& b);

/// Pixels that ids of two tiles share where both lie, for each of the pairs: keys are made of
/// first[tile] + id. `tiles` are int32, contiguous, of one shape, ids >= 0; `first` has one more
/// than they are, and tile i's ids are below first[i + 1] - first[i].
PairCounts tile_overlaps(const std::vector<Array>& tiles, const std::vector<int64_t>& first,
                         const std::vector<TilePair>& pairs);

/// Writes to `out`, int32, for each pixel map[first[tile] + id] of the tile whose core it lies in:
/// axes[k] has starts, and the begins and ends of cores.
void compose_tiles(const std::vector<Array>& tiles, const std::vector<int64_t>& first,
                   const std::vector<AxisTables>& axes, const std::vector<int32_t>& map,
                   const Array& out);

}  // namespace cellpost::api
