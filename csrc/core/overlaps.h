// Which objects of two label images lie on each other, counted in pixels.
//
// Images are compared line by line; two lines that lie on each other fall into runs of one pair of
// ids. A pair is one 64-bit key, so that sorting and counting need no more than integers. Pixels
// where both are background are left out.
#pragma once

#include "core/tiles.h"

namespace cellpost {

/// Two lines of labels that lie on each other. Ids count from first_a and first_b on, which tells
/// the objects of different tiles apart (and the background of each).
struct LinePair {
  const int32_t *a, *b;
  int64_t n;
  int64_t first_a, first_b;

  CELLPOST_FN bool is_background(int64_t x) const { return (a[x] | b[x]) == 0; }
  CELLPOST_FN bool starts_run(int64_t x) const {
    return x == 0 || a[x] != a[x - 1] || b[x] != b[x - 1];
  }
  CELLPOST_FN int64_t key(int64_t x) const { return ((first_a + a[x]) << 32) | (first_b + b[x]); }
};

/// The lines of two images.
struct ImageLines {
  const int32_t *a, *b;
  int64_t width;

  CELLPOST_FN LinePair operator()(int64_t line) const {
    return {a + line * width, b + line * width, width, 0, 0};
  }
};

/// What two tiles both cover.
struct TilePair {
  int64_t tile_a, tile_b;
  int64_t begin_a[3], begin_b[3];  ///< where it begins in each of them
  int64_t size[3];
};

/// The lines of all regions that two tiles cover, `most` for each pair: those that a region has not
/// are empty.
struct TileLines {
  const int32_t* const* tiles;  ///< of `side` each
  const int64_t* first;         ///< number of the first id of each tile, its background
  const TilePair* pairs;
  int64_t side[3];
  int64_t most;

  CELLPOST_FN LinePair operator()(int64_t line) const {
    const TilePair& pair = pairs[line / most];
    const int64_t k = line % most, z = k / pair.size[1], y = k % pair.size[1];
    if (z >= pair.size[0]) return {nullptr, nullptr, 0, 0, 0};
    const auto at = [&](const int64_t (&begin)[3]) {
      return ((begin[0] + z) * side[1] + begin[1] + y) * side[2] + begin[2];
    };
    return {tiles[pair.tile_a] + at(pair.begin_a), tiles[pair.tile_b] + at(pair.begin_b),
            pair.size[2], first[pair.tile_a], first[pair.tile_b]};
  }
};

/// The key's pixels among entries that are sorted by their keys, for the first entry of each.
struct SumOfKey {
  const int64_t *keys, *counts, *starts;
  int64_t n_starts, n;
  int64_t *key_out, *count_out;
  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t end = i + 1 < n_starts ? starts[i + 1] : n;
    int64_t sum = 0;
    for (int64_t k = starts[i]; k < end; ++k) sum += counts[k];
    key_out[i] = keys[starts[i]];
    count_out[i] = sum;
  }
};

struct IsFirstOfKey {
  const int64_t* keys;
  CELLPOST_FN bool operator()(int64_t i) const { return i == 0 || keys[i] != keys[i - 1]; }
};

/// Labels of the whole image: each pixel is its core's tile's, under the number that `map` has for
/// the id, if it has one. An item is what one tile gives of one line.
struct ComposeTiles {
  TileAxis axis[3];  ///< begin and end are those of cores
  const int32_t* const* tiles;
  const int64_t* first;
  const int32_t* map;
  int64_t size[3];
  int32_t* out;

  CELLPOST_FN void operator()(int64_t item) const {
    const int64_t line = item / axis[2].n, k2 = item % axis[2].n;
    const int64_t z = line / size[1], y = line % size[1];
    const int64_t k0 = axis[0].first_at(z), k1 = axis[1].first_at(y);
    const int64_t tile = (k0 * axis[1].n + k1) * axis[2].n + k2;
    const int64_t z0 = z - axis[0].start[k0], y0 = y - axis[1].start[k1];
    const int32_t* const from = tiles[tile] + (z0 * axis[1].side + y0) * axis[2].side;
    const int32_t* const ids = map + first[tile];
    const int64_t n = first[tile + 1] - first[tile];
    int32_t* const to = out + line * size[2];
    for (int64_t x = axis[2].begin[k2]; x < axis[2].end[k2]; ++x) {
      const int32_t id = from[x - axis[2].start[k2]];
      to[x] = id >= 0 && id < n ? ids[id] : 0;
    }
  }
};

}  // namespace cellpost
