#include "api/overlaps.h"

#include "api/check.h"
#include "cpu/overlaps.h"
#include "cuda/overlaps.h"

namespace cellpost::api {
namespace {

struct Tiles {
  std::vector<const int32_t*> data;
  int64_t side[3];
  Place place;
};

/// All tiles, of one shape.
Tiles checked(const std::vector<Array>& tiles, const std::vector<int64_t>& first) {
  if (tiles.empty() || first.size() != tiles.size() + 1 || first.back() > INT32_MAX) {
    reject("tiles", "one or more, of fewer than 2^31 objects in all", std::to_string(tiles.size()));
  }
  Tiles out{{}, {}, tiles[0].place};
  for (size_t i = 0; i < tiles.size(); ++i) {
    Shape shape;
    out.data.push_back(labels_in_place(tiles[i], &shape));
    if (tiles[i].shape != tiles[0].shape) {
      reject("tiles", "shape " + text(tiles[0].shape), "shape " + text(tiles[i].shape));
    }
    same_place(tiles[0], tiles[i]);
  }
  const std::vector<int64_t>& shape = tiles[0].shape;
  // An image (H, W) has a middle axis of one pixel.
  out.side[0] = shape[0];
  out.side[1] = shape.size() == 2 ? 1 : shape[1];
  out.side[2] = shape.back();
  return out;
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

PairCounts tile_overlaps(const std::vector<Array>& tiles, const std::vector<int64_t>& first,
                         const std::vector<TilePair>& pairs) {
  if (pairs.empty()) return {};
  const Tiles all = checked(tiles, first);
  TileLines lines{};
  const auto n = static_cast<int64_t>(tiles.size());
  for (size_t k = 0; k < 3; ++k) lines.side[k] = all.side[k];
  for (const TilePair& pair : pairs) {
    bool fits = pair.tile_a >= 0 && pair.tile_a < n && pair.tile_b >= 0 && pair.tile_b < n;
    for (size_t k = 0; k < 3; ++k) {
      fits = fits && pair.size[k] > 0 && pair.begin_a[k] >= 0 && pair.begin_b[k] >= 0 &&
             pair.begin_a[k] + pair.size[k] <= all.side[k] &&
             pair.begin_b[k] + pair.size[k] <= all.side[k];
    }
    if (!fits) reject("pairs", "regions that two tiles share", "another");
  }
  return all.place.cuda ? cuda::tile_overlaps(all.place, lines, all.data, first, pairs)
                        : cpu::tile_overlaps(lines, all.data, first, pairs);
}

void compose_tiles(const std::vector<Array>& tiles, const std::vector<int64_t>& first,
                   const std::vector<AxisTables>& axes, const std::vector<int32_t>& map,
                   const Array& out) {
  Shape shape;
  ComposeTiles job{};
  job.out = labels_in_place(out, &shape);
  if (shape.pixels() == 0) return;
  const Tiles all = checked(tiles, first);
  same_place(out, tiles[0]);
  const bool flat = axes.size() == 2;
  if (axes.size() != out.shape.size() || tiles[0].shape.size() != axes.size() ||
      static_cast<int64_t>(map.size()) != first.back()) {
    reject("axes", "one for each axis of out, and a number for each id", "others");
  }
  const AxisTables one{{0}, {0}, {1}, {}};
  const AxisTables tables[3] = {axes[0], flat ? one : axes[1], axes.back()};
  const int64_t size[3] = {out.shape[0], flat ? 1 : out.shape[1], out.shape.back()};
  size_t n_tiles = 1;
  for (size_t k = 0; k < 3; ++k) {
    const AxisTables& axis = tables[k];
    const size_t n = axis.start.size();
    n_tiles *= n;
    bool covers = n > 0 && axis.begin.size() == n && axis.end.size() == n && axis.begin[0] == 0 &&
                  axis.end[n - 1] == size[k];
    for (size_t i = 0; covers && i < n; ++i) {
      covers = axis.start[i] <= axis.begin[i] && axis.begin[i] <= axis.end[i] &&
               axis.end[i] <= axis.start[i] + all.side[k] &&
               (i == 0 || axis.begin[i] == axis.end[i - 1]);
    }
    if (!covers) reject("axes", "cores that cover the image once, each inside its tile", "others");
    job.axis[k].side = all.side[k];
    job.size[k] = size[k];
  }
  if (n_tiles != tiles.size()) {
    reject("tiles", std::to_string(n_tiles), std::to_string(tiles.size()));
  }
  if (out.place.cuda) {
    cuda::compose_tiles(out.place, job, tables, all.data, first, map);
  } else {
    cpu::compose_tiles(job, tables, all.data, first, map);
  }
}

}  // namespace cellpost::api
