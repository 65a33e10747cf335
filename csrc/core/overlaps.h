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

/// Label tiles of one shape. Their ids are numbered through.
struct LabelTiles {
  const int32_t* const* data;
  const int64_t* first;  ///< number of each tile's background, which its ids follow; then of all
  int64_t side[3];

  CELLPOST_FN const int32_t* line(int64_t tile, int64_t z, int64_t y) const {
    return data[tile] + (z * side[1] + y) * side[2];
  }
  /// An id that is none of the tile's (the caller writes to it meanwhile) is background.
  CELLPOST_FN int64_t number(int64_t tile, int32_t id) const {
    return first[tile] + (id >= 0 && id < first[tile + 1] - first[tile] ? id : 0);
  }
};

/// The lines of all regions that two tiles cover, `most` for each pair: those that a region has not
/// are empty.
struct TileLines {
  LabelTiles tiles;
  const TilePair* pairs;
  int64_t most;

  CELLPOST_FN LinePair operator()(int64_t line) const {
    const TilePair& pair = pairs[line / most];
    const int64_t k = line % most, z = k / pair.size[1], y = k % pair.size[1];
    if (z >= pair.size[0]) return {nullptr, nullptr, 0, 0, 0};
    const auto line_of = [&](int64_t tile, const int64_t (&begin)[3]) {
      return tiles.line(tile, begin[0] + z, begin[1] + y) + begin[2];
    };
    return {line_of(pair.tile_a, pair.begin_a), line_of(pair.tile_b, pair.begin_b), pair.size[2],
            tiles.first[pair.tile_a], tiles.first[pair.tile_b]};
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

/// All bits that the ids of a tile have: none is above them, and the sign's is a negative one's.
struct BitsOfIds {
  const int32_t* const* tiles;
  int64_t n_pixels, n_pieces;  ///< of a tile
  int32_t* bits;               ///< of each tile

  static constexpr int64_t kPiece = 1 << 14;

  CELLPOST_FN void operator()(int64_t item) const {
    const int64_t tile = item / n_pieces, begin = item % n_pieces * kPiece;
    const int64_t end = begin + kPiece < n_pixels ? begin + kPiece : n_pixels;
    const int32_t* const ids = tiles[tile];
    int32_t seen = 0;
    for (int64_t i = begin; i < end; ++i) seen |= ids[i];
    atomic_or(&bits[tile], seen);
  }
};

/// Pixels that follow each other, all of them one tile's.
struct CorePiece {
  const int32_t* ids;
  int64_t n, tile, pixel;  ///< pixel: the first one's place in the image
};

/// Tiles side by side: each pixel of the image is its core's tile's. A piece is what one tile gives
/// of one line.
struct TileCores {
  LabelTiles tiles;
  TileAxis axis[3];  ///< begin and end are those of cores
  int64_t size[3];   ///< of the image

  int64_t n_pieces() const { return size[0] * size[1] * axis[2].n; }

  CELLPOST_FN CorePiece piece(int64_t i) const {
    const int64_t line = i / axis[2].n, k2 = i % axis[2].n;
    const int64_t z = line / size[1], y = line % size[1];
    const int64_t k0 = axis[0].first_at(z), k1 = axis[1].first_at(y);
    const int64_t tile = (k0 * axis[1].n + k1) * axis[2].n + k2, x = axis[2].begin[k2];
    return {tiles.line(tile, z - axis[0].start[k0], y - axis[1].start[k1]) + x - axis[2].start[k2],
            axis[2].end[k2] - x, tile, line * size[2] + x};
  }
};

/// The first pixel of the image that each id has.
struct FindFirst {
  int64_t* first_pixel;

  CELLPOST_FN void operator()(int64_t number, int64_t pixel, int64_t) const {
    if (pixel < atomic_load(&first_pixel[number])) atomic_min(&first_pixel[number], pixel);
  }
};

/// Labels of the whole image: what `map` has for each id.
struct ComposeTiles {
  const int32_t* map;
  int32_t* out;

  CELLPOST_FN void operator()(int64_t number, int64_t pixel, int64_t n) const {
    const int32_t label = map[number];
    for (int64_t i = pixel; i < pixel + n; ++i) out[i] = label;
  }
};

/// A part of a tile, and what marks the ids in it.
struct TileRegion {
  int64_t tile;
  int64_t begin[3], size[3];
  int64_t mark;
};

struct MarkRegions {
  LabelTiles tiles;
  const TileRegion* regions;
  int32_t* marks;  ///< of each id, all that it got

  CELLPOST_FN void operator()(int64_t i) const {
    const TileRegion& region = regions[i];
    const auto mark = static_cast<int32_t>(region.mark);
    for (int64_t z = region.begin[0]; z < region.begin[0] + region.size[0]; ++z) {
      for (int64_t y = region.begin[1]; y < region.begin[1] + region.size[1]; ++y) {
        const int32_t* const line = tiles.line(region.tile, z, y);
        for (int64_t x = region.begin[2]; x < region.begin[2] + region.size[2]; ++x) {
          int32_t* const marked = &marks[tiles.number(region.tile, line[x])];
          if ((atomic_load(marked) & mark) == 0) atomic_or(marked, mark);
        }
      }
    }
  }
};

}  // namespace cellpost
