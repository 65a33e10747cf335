// C++ contract of the tiles family.
#pragma once

#include <optional>
#include <vector>

#include "api/array.h"
#include "pipeline/tiles.h"

namespace cellpost::api {

/// Where the tiles of a grid lie and what they weigh, by axis: 2 or 3 of them.
struct TileTables {
  std::vector<AxisTables> axes;
  std::vector<int64_t> tile;    ///< sides in pixels
  std::optional<Array> window;  ///< weights of a tile's shape, float32, in place of the axes'
  double floor = 0.0;           ///< smallest weight, where it is a product of the axes'
};

/// Blends the rows [first_row, first_row + n) of a map into `out`, (channels, n, ...), whose lines
/// are contiguous. `tiles`, (channels, *tile) contiguous each, in the grid's order, are all of some
/// places along the first axis, from first_layer on, with all that cover the rows among them. The
/// linear index in `out` of the first NaN, or -1.
int64_t stitch(const std::vector<Array>& tiles, const Array& out, const TileTables& tables,
               int64_t first_layer, int64_t first_row);

}  // namespace cellpost::api
