#include "api/overlaps.h"

#include <algorithm>
#include <functional>

#include "api/check.h"
#include "cpu/overlaps.h"
#include "cuda/overlaps.h"

namespace cellpost::api {
namespace {

/// Tiles of one shape and place; `first` is not looked at.
TileList listed(const std::vector<Array>& tiles) {
  if (tiles.empty()) reject("tiles", "one or more", "none");
  TileList list{};
  for (const Array& tile : tiles) {
    Shape shape;
    list.data.push_back(labels_in_place(tile, &shape));
    if (tile.shape != tiles[0].shape) {
      reject("tiles", "shape " + text(tiles[0].shape), "shape " + text(tile.shape));
    }
    same_place(tiles[0], tile);
  }
  const std::vector<int64_t>& shape = tiles[0].shape;
  // An image (H, W) has a middle axis of one pixel.
  list.side[0] = shape[0];
  list.side[1] = shape.size() == 2 ? 1 : shape[1];
  list.side[2] = shape.back();
  return list;
}

TileList checked(const Tiles& tiles) {
  TileList list = listed(tiles.arrays);
  list.first = tiles.first;
  const bool counts = list.first.size() == list.data.size() + 1 && list.first[0] == 0 &&
                      list.first.back() <= INT32_MAX &&
                      std::is_sorted(list.first.begin(), list.first.end(), std::less_equal<>());
  if (!counts) {
    reject("first", "ascending numbers, one more than tiles, of fewer than 2^31 ids", "others");
  }
  return list;
}

/// Rejects a part that does not lie in its tile.
void check_part(const TileList& list, int64_t tile, const int64_t (&begin)[3],
                const int64_t (&size)[3]) {
  bool fits = tile >= 0 && tile < static_cast<int64_t>(list.data.size());
  for (int k = 0; k < 3; ++k) {
    fits = fits && size[k] > 0 && begin[k] >= 0 && begin[k] <= list.side[k] - size[k];
  }
  if (!fits) reject("regions", "parts of the tiles", "another");
}

ImageCores checked(const TileList& list, const Cores& cores) {
  const bool flat = cores.axes.size() == 2;
  if (cores.axes.size() != cores.size.size() || (!flat && cores.axes.size() != 3)) {
    reject("axes", "one for each axis of the image", std::to_string(cores.axes.size()));
  }
  const AxisTables one{{0}, {0}, {1}, {}};
  ImageCores image{{cores.axes[0], flat ? one : cores.axes[1], cores.axes.back()},
                   {cores.size[0], flat ? 1 : cores.size[1], cores.size.back()}};
  size_t n_tiles = 1;
  for (int k = 0; k < 3; ++k) {
    const AxisTables& axis = image.axis[k];
    const size_t n = axis.start.size();
    n_tiles *= n;
    bool covers = n > 0 && axis.begin.size() == n && axis.end.size() == n && axis.begin[0] == 0 &&
                  axis.end[n - 1] == image.size[k];
    for (size_t i = 0; covers && i < n; ++i) {
      covers = axis.start[i] <= axis.begin[i] && axis.begin[i] <= axis.end[i] &&
               axis.end[i] <= axis.start[i] + list.side[k] &&
               (i == 0 || axis.begin[i] == axis.end[i - 1]);
    }
    if (!covers) reject("axes", "cores that cover the image once, each inside its tile", "others");
  }
  if (n_tiles != list.data.size()) {
    reject("tiles", std::to_string(n_tiles), std::to_string(list.data.size()));
  }
  return image;
}

}  // namespace

PairCounts overlap_counts(const Array& a, const Array& b) {
  Shape shape, other;
  const int32_t* const first = labels_in_place(a, &shape);
  const int32_t* const second = labels_in_place(b, &other);
  if (a.shape != b.shape) reject(b.name, "shape " + text(a.shape), "shape " + text(b.shape));
  same_place(a, b);
  if (shape.pixels() == 0) return {};
  return a.place.cuda ? cuda::overlap_counts(a.place, first, second, shape.rows(), shape.x)
                      : cpu::overlap_counts(first, second, shape.rows(), shape.x);
}

PairCounts tile_overlaps(const Tiles& tiles, const std::vector<TilePair>& pairs) {
  if (pairs.empty()) return {};
  const TileList list = checked(tiles);
  for (const TilePair& pair : pairs) {
    check_part(list, pair.tile_a, pair.begin_a, pair.size);
    check_part(list, pair.tile_b, pair.begin_b, pair.size);
  }
  const Place& place = tiles.arrays[0].place;
  return place.cuda ? cuda::tile_overlaps(place, list, pairs) : cpu::tile_overlaps(list, pairs);
}

std::vector<int32_t> bits_of_ids(const std::vector<Array>& tiles) {
  if (tiles.empty()) return {};
  const TileList list = listed(tiles);
  const Place& place = tiles[0].place;
  return place.cuda ? cuda::bits_of_ids(place, list) : cpu::bits_of_ids(list);
}

TileSurvey survey_tiles(const Tiles& tiles, const Cores& cores,
                        const std::vector<TileRegion>& regions) {
  const TileList list = checked(tiles);
  const ImageCores image = checked(list, cores);
  for (const TileRegion& region : regions) {
    check_part(list, region.tile, region.begin, region.size);
  }
  const Place& place = tiles.arrays[0].place;
  return place.cuda ? cuda::survey_tiles(place, list, image, regions)
                    : cpu::survey_tiles(list, image, regions);
}

void compose_tiles(const Tiles& tiles, const std::vector<AxisTables>& axes,
                   const std::vector<int32_t>& map, const Array& out) {
  Shape shape;
  int32_t* const to = labels_in_place(out, &shape);
  if (shape.pixels() == 0) return;
  const TileList list = checked(tiles);
  const ImageCores image = checked(list, {axes, out.shape});
  same_place(out, tiles.arrays[0]);
  if (static_cast<int64_t>(map.size()) != list.first.back()) {
    reject("map", std::to_string(list.first.back()) + " numbers, one for each id",
           std::to_string(map.size()));
  }
  if (out.place.cuda) {
    cuda::compose_tiles(out.place, list, image, map, to);
  } else {
    cpu::compose_tiles(list, image, map, to);
  }
}

}  // namespace cellpost::api
