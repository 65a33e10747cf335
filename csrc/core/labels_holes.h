// A hole of an object is a 4-connected (6-connected in 3D) component of its complement that does
// not reach the border of its bounding box. Each object is flooded alone, one bit per pixel of its
// bounding box, 64 pixels an operation: `outside` starts at the border and grows through the
// complement, row by row, until nothing changes.
#pragma once

#include "core/labels.h"

namespace cellpost {

CELLPOST_FN int64_t hole_words(const ObjectTable& table, int64_t id) {
  return (table.extent(id, 2) + 63) / 64;
}
/// Scratch words that flooding the object needs.
CELLPOST_FN int64_t hole_scratch(const ObjectTable& table, int64_t id) {
  return 2 * hole_words(table, id) * table.extent(id, 0) * table.extent(id, 1);
}

/// Spreads `seed` to both sides along a row through the bits set in `open`.
CELLPOST_FN bool flood_row(const uint64_t* open, uint64_t* seed, int64_t n_words) {
  bool changed = false;
  uint64_t carry = 0;
  for (int64_t w = 0; w < n_words; ++w) {  // towards higher x: the sum ripples through open runs
    const uint64_t start = (seed[w] | carry) & open[w];
    const uint64_t spread = (((open[w] + start) ^ open[w]) & open[w]) | start;
    changed = changed || spread != seed[w];
    seed[w] = spread;
    carry = spread >> 63;
  }
  carry = 0;
  for (int64_t w = n_words - 1; w >= 0; --w) {  // towards lower x: doubling shifts
    uint64_t spread = seed[w] | (carry & open[w]);
    uint64_t through = open[w];
    for (int s = 1; s < 64; s *= 2) {
      spread |= through & (spread >> s);
      through &= through >> s;
    }
    changed = changed || spread != seed[w];
    seed[w] = spread;
    carry = (spread & 1u) << 63;
  }
  return changed;
}

struct Holes {
  int32_t* labels;
  Shape shape;
  ObjectTable table;

  /// Floods the object's complement; returns whether it has a hole. Afterwards the first half of
  /// `scratch` holds the complement and the second half the part that is outside.
  CELLPOST_FN bool flood(int64_t id, uint64_t* scratch) const {
    const int64_t nz = table.extent(id, 0), ny = table.extent(id, 1), nx = table.extent(id, 2);
    const int64_t n_words = hole_words(table, id), n_rows = nz * ny;
    uint64_t* open = scratch;
    uint64_t* outside = scratch + n_rows * n_words;
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t z = r / ny, y = r % ny;
      const bool rim = y == 0 || y == ny - 1 || (shape.ndim == 3 && (z == 0 || z == nz - 1));
      const int32_t* line = labels +
                            ((table.low[0][id] + z) * shape.y + table.low[1][id] + y) * shape.x +
                            table.low[2][id];
      for (int64_t w = 0; w < n_words; ++w) {
        const int64_t n = nx - 64 * w < 64 ? nx - 64 * w : 64;
        uint64_t bits = 0;
        for (int64_t b = 0; b < n; ++b) {
          bits |= static_cast<uint64_t>(line[64 * w + b] != id) << b;
        }
        uint64_t ends = w == 0 ? uint64_t{1} : 0;
        if (w == n_words - 1) ends |= uint64_t{1} << (n - 1);
        open[r * n_words + w] = bits;
        outside[r * n_words + w] = rim ? bits : bits & ends;
      }
    }
    bool changed = true;
    for (bool down = true; changed; down = !down) {
      changed = false;
      for (int64_t i = 0; i < n_rows; ++i) {
        const int64_t r = down ? i : n_rows - 1 - i;
        const int64_t z = r / ny, y = r % ny;
        uint64_t* here = outside + r * n_words;
        const uint64_t* up = y > 0 ? here - n_words : here;
        const uint64_t* below = y < ny - 1 ? here + n_words : here;
        const uint64_t* front = z > 0 ? here - ny * n_words : here;
        const uint64_t* back = z < nz - 1 ? here + ny * n_words : here;
        for (int64_t w = 0; w < n_words; ++w) {
          const uint64_t joined =
              here[w] | ((up[w] | below[w] | front[w] | back[w]) & open[r * n_words + w]);
          changed = changed || joined != here[w];
          here[w] = joined;
        }
        if (flood_row(open + r * n_words, here, n_words)) changed = true;
      }
    }
    uint64_t any = 0;
    for (int64_t i = 0; i < n_rows * n_words; ++i) any |= open[i] & ~outside[i];
    return any != 0;
  }

  /// Calls visit(pixel) for each hole pixel after flood().
  template <class Visit>
  CELLPOST_FN void for_each_hole_pixel(int64_t id, const uint64_t* scratch,
                                       const Visit& visit) const {
    const int64_t ny = table.extent(id, 1), n_words = hole_words(table, id);
    const int64_t n_rows = table.extent(id, 0) * ny;
    for (int64_t i = 0; i < n_rows * n_words; ++i) {
      const uint64_t bits = scratch[i] & ~scratch[n_rows * n_words + i];
      if (bits == 0) continue;
      const int64_t r = i / n_words, w = i % n_words;
      const int64_t z = table.low[0][id] + r / ny, y = table.low[1][id] + r % ny;
      const int64_t line = (z * shape.y + y) * shape.x + table.low[2][id] + 64 * w;
      for (int64_t b = 0; b < 64; ++b) {
        if (bits >> b & 1u) visit(line + b);
      }
    }
  }
};

/// Objects that are flooded at the same time, each with scratch of its own.
struct HoleBatch {
  const int32_t* ids;         ///< of all objects, ordered by bounding box and id
  const int64_t* scratch_at;  ///< where each object's scratch would begin, were there room for all
  uint64_t* scratch;
  int64_t first;  ///< the batch's first object

  CELLPOST_FN int32_t id(int64_t i) const { return ids[first + i]; }
  CELLPOST_FN uint64_t* scratch_of(int64_t i) const {
    return scratch + (scratch_at[first + i] - scratch_at[first]);
  }
};

/// Writes 1 into has_hole[id].
struct FindHoles {
  Holes holes;
  HoleBatch batch;
  int32_t* has_hole;

  CELLPOST_FN void operator()(int64_t i) const {
    if (holes.flood(batch.id(i), batch.scratch_of(i))) has_hole[batch.id(i)] = 1;
  }
};

/// Nested objects are kept: claims the background pixels of a hole. The lowest index of those that
/// enclose a pixel wins, so that the innermost object gets it whatever the order of execution. A
/// claim is written as index - n_ids < 0, which is no object's id to those flooded later.
struct ClaimHoles {
  Holes holes;
  HoleBatch batch;
  const int32_t* has_hole;
  int64_t n_ids;

  struct Claim {
    int32_t* labels;
    int32_t value;
    CELLPOST_FN void operator()(int64_t pixel) const {
      if (atomic_load(&labels[pixel]) <= 0) atomic_min(&labels[pixel], value);
    }
  };

  CELLPOST_FN void operator()(int64_t i) const {
    if (!has_hole[batch.id(i)]) return;
    holes.for_each_hole_pixel(batch.id(i), batch.scratch_of(i),
                              Claim{holes.labels, static_cast<int32_t>(batch.first + i - n_ids)});
  }
};

struct SettleClaims {
  const int32_t* ids;
  int64_t n_ids;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t pixel) const {
    if (labels[pixel] < 0) labels[pixel] = ids[labels[pixel] + n_ids];
  }
};

/// Nested objects are overwritten, as Cellpose does: objects in ascending order of id, each on the
/// state its predecessors left. One item, since the order is the definition. Only objects that had
/// a hole to begin with need a look: pixels are lost by whole components of a complement, and what
/// would fill a hole of the rest touches the rest, so is in the same component.
struct OverwriteHoles {
  Holes holes;
  const int32_t* ids;  ///< ascending
  int64_t n_ids;
  const int32_t* has_hole;  ///< by id
  uint64_t* scratch;        ///< enough for the largest object
  int64_t* n_overwritten;   ///< pixels of objects that became another's

  struct Overwrite {
    int32_t* labels;
    int32_t id;
    int64_t* n_overwritten;
    CELLPOST_FN void operator()(int64_t pixel) const {
      if (labels[pixel] != 0) ++*n_overwritten;
      labels[pixel] = id;
    }
  };

  CELLPOST_FN void operator()(int64_t) const {
    for (int64_t i = 0; i < n_ids; ++i) {
      const int32_t id = ids[i];
      if (has_hole[id] && holes.flood(id, scratch)) {
        holes.for_each_hole_pixel(id, scratch, Overwrite{holes.labels, id, n_overwritten});
      }
    }
  }
};

}  // namespace cellpost
