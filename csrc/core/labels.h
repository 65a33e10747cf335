// Label images: one table row per object, filters that work on the table, one pass that applies
// them. Labels are int32, 0 is background, ids may have gaps (rows of absent ids have size 0).
#pragma once

#include "core/atomic.h"
#include "core/image.h"

namespace cellpost {

constexpr int64_t kNowhere = int64_t{1} << 62;

/// Row i describes the object with id i; row 0 is unused. Bounding boxes are half-open.
struct ObjectTable {
  int64_t n;        ///< largest id
  int64_t* size;    ///< pixels
  int64_t* first;   ///< linear index of its first pixel, kNowhere if absent
  int64_t* sum[3];  ///< sums of its z, y, x coordinates
  int32_t* low[3];
  int32_t* high[3];

  CELLPOST_FN int64_t extent(int64_t id, int k) const {
    return static_cast<int64_t>(high[k][id]) - low[k][id];
  }
  CELLPOST_FN int64_t box_pixels(int64_t id) const {
    return extent(id, 0) * extent(id, 1) * extent(id, 2);
  }
};

struct ClearObject {
  ObjectTable table;
  CELLPOST_FN void operator()(int64_t id) const {
    table.size[id] = 0;
    table.first[id] = kNowhere;
    for (int k = 0; k < 3; ++k) {
      table.sum[k][id] = 0;
      table.low[k][id] = INT32_MAX;
      table.high[k][id] = 0;
    }
  }
};

/// Fills the table; one update per horizontal run, done by the item at the run's first pixel.
struct MeasureObjects {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;

  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    const int32_t* line = labels + row * shape.x;
    const int32_t id = line[x];
    if (id == 0 || (x > 0 && line[x - 1] == id)) return;
    int64_t end = x + 1;
    while (end < shape.x && line[end] == id) ++end;
    const int64_t n = end - x, at[3] = {row / shape.y, row % shape.y, x};
    atomic_add(&table.size[id], n);
    atomic_min(&table.first[id], row * shape.x + x);
    atomic_add(&table.sum[0][id], at[0] * n);
    atomic_add(&table.sum[1][id], at[1] * n);
    atomic_add(&table.sum[2][id], (x + end - 1) * n / 2);
    for (int k = 0; k < 3; ++k) {
      atomic_min(&table.low[k][id], static_cast<int32_t>(at[k]));
      atomic_max(&table.high[k][id], static_cast<int32_t>((k == 2 ? end - 1 : at[k]) + 1));
    }
  }
};

/// Row `rank` + 1 of `to` becomes the row ids[rank] of `from`.
struct PermuteObjects {
  ObjectTable from, to;
  const int32_t* ids;
  CELLPOST_FN void operator()(int64_t rank) const {
    const int64_t id = ids[rank];
    to.size[rank + 1] = from.size[id];
    to.first[rank + 1] = from.first[id];
    for (int k = 0; k < 3; ++k) {
      to.sum[k][rank + 1] = from.sum[k][id];
      to.low[k][rank + 1] = from.low[k][id];
      to.high[k][rank + 1] = from.high[k][id];
    }
  }
};

/// An id is present and not dropped. `map` holds 0 for dropped ids, anything else for kept ones.
struct IsKept {
  const int64_t* size;
  const int32_t* map;
  CELLPOST_FN bool operator()(int64_t id) const { return size[id] > 0 && map[id] != 0; }
};

/// Drops objects smaller than `minimum` or larger than `maximum` pixels.
struct DropBySize {
  const int64_t* size;
  int64_t minimum, maximum;
  int32_t* map;
  CELLPOST_FN void operator()(int64_t id) const {
    if (size[id] < minimum || size[id] > maximum) map[id] = 0;
  }
};

/// Kept objects are mapped to themselves.
struct KeepId {
  int32_t* map;
  CELLPOST_FN void operator()(int64_t id) const {
    if (map[id] != 0) map[id] = static_cast<int32_t>(id);
  }
};

struct ApplyMap {
  const int32_t* map;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t pixel) const {
    const int32_t id = labels[pixel];
    if (id != 0) labels[pixel] = map[id];
  }
};

/// map[ids[rank]] = rank + 1: ids in order of first appearance become 1..N.
struct NumberByRank {
  const int32_t* ids;
  int32_t* map;
  CELLPOST_FN void operator()(int64_t rank) const {
    map[ids[rank]] = static_cast<int32_t>(rank + 1);
  }
};

// ---- holes -------------------------------------------------------------------------------------
//
// A hole of an object is a 4-connected (6-connected in 3D) component of its complement that does
// not reach the border of its bounding box. Each object is flooded alone, one bit per pixel of its
// bounding box, 64 pixels an operation: `outside` starts at the border and grows through the
// complement, row by row, until nothing changes.

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

/// Item: index into `ids` (kept objects). Writes 1 into has_hole[id].
struct FindHoles {
  Holes holes;
  const int32_t* ids;
  const int64_t* scratch_at;  ///< where each item's scratch begins
  uint64_t* scratch;
  int32_t* has_hole;

  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t id = ids[i];
    if (holes.flood(id, scratch + scratch_at[i])) has_hole[id] = 1;
  }
};

/// Nested objects are kept: claims the background pixels of a hole. `ids` are ordered by bounding
/// box and id, and the lowest index wins, so that the innermost enclosing object gets the pixel
/// whatever the order of execution. A claim is written as index - n_ids < 0.
struct ClaimHoles {
  Holes holes;
  const int32_t* ids;
  const int32_t* has_hole;
  int64_t n_ids;
  const int64_t* scratch_at;
  const uint64_t* scratch;

  struct Claim {
    int32_t* labels;
    int32_t value;
    CELLPOST_FN void operator()(int64_t pixel) const {
      if (atomic_load(&labels[pixel]) <= 0) atomic_min(&labels[pixel], value);
    }
  };

  CELLPOST_FN void operator()(int64_t i) const {
    if (!has_hole[ids[i]]) return;
    holes.for_each_hole_pixel(ids[i], scratch + scratch_at[i],
                              Claim{holes.labels, static_cast<int32_t>(i - n_ids)});
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

// ---- connected components of equal labels ------------------------------------------------------

/// Union-find by hooking to the smaller index: the root of a component is its first pixel in
/// raster order, whatever the order of execution (Jaiganesh and Burtscher, HPDC 2018).
struct UnionFind {
  IndexImage parent;

  CELLPOST_FN int64_t load(int64_t i) const {
    return parent.narrow ? atomic_load(&parent.narrow[i]) : atomic_load(&parent.wide[i]);
  }
  CELLPOST_FN void store(int64_t i, int64_t root) const {
    if (parent.narrow) {
      atomic_store(&parent.narrow[i], static_cast<int32_t>(root));
    } else {
      atomic_store(&parent.wide[i], root);
    }
  }
  CELLPOST_FN int64_t find(int64_t i) const {
    int64_t up = load(i);
    while (up != i) {
      i = up;
      up = load(i);
    }
    return i;
  }
  CELLPOST_FN bool hook(int64_t high, int64_t low) const;
  CELLPOST_FN void unite(int64_t a, int64_t b) const {
    for (;;) {
      a = find(a);
      b = find(b);
      if (a == b) return;
      if (a < b ? hook(b, a) : hook(a, b)) return;
    }
  }
};

CELLPOST_FN bool UnionFind::hook(int64_t high, int64_t low) const {
#if defined(__CUDA_ARCH__)
  if (parent.narrow) {
    const int32_t was = static_cast<int32_t>(high);
    return atomicCAS(&parent.narrow[high], was, static_cast<int32_t>(low)) == was;
  }
  const auto was = static_cast<unsigned long long>(high);
  return atomicCAS(reinterpret_cast<unsigned long long*>(&parent.wide[high]), was,
                   static_cast<unsigned long long>(low)) == was;
#else
  if (parent.narrow) {
    int32_t was = static_cast<int32_t>(high);
    return __atomic_compare_exchange_n(&parent.narrow[high], &was, static_cast<int32_t>(low), false,
                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  }
  int64_t was = high;
  return __atomic_compare_exchange_n(&parent.wide[high], &was, low, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED);
#endif
}

struct StartComponents {
  IndexImage parent;
  CELLPOST_FN void operator()(int64_t pixel) const { parent.set(pixel, pixel); }
};

/// Joins each pixel with those of its 8 (26) neighbours that come before it and share its label.
struct JoinComponents {
  const int32_t* labels;
  Shape shape;
  UnionFind sets;

  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    const int64_t pixel = row * shape.x + x, z = row / shape.y, y = row % shape.y;
    const int32_t id = labels[pixel];
    if (id == 0) return;
    for (int64_t dz = shape.ndim == 3 ? -1 : 0; dz <= 0; ++dz) {
      for (int64_t dy = -1; dy <= (dz < 0 ? 1 : 0); ++dy) {
        for (int64_t dx = -1; dx <= (dz < 0 || dy < 0 ? 1 : -1); ++dx) {
          if (!shape.contains(z + dz, y + dy, x + dx)) continue;
          const int64_t other = pixel + (dz * shape.y + dy) * shape.x + dx;
          if (labels[other] == id) sets.unite(pixel, other);
        }
      }
    }
  }
};

struct IsRoot {
  const int32_t* labels;
  UnionFind sets;
  CELLPOST_FN bool operator()(int64_t pixel) const {
    return labels[pixel] != 0 && sets.load(pixel) == pixel;
  }
};

/// Each pixel's parent becomes its root.
struct FlattenComponents {
  const int32_t* labels;
  UnionFind sets;
  CELLPOST_FN void operator()(int64_t pixel) const {
    if (labels[pixel] != 0) sets.store(pixel, sets.find(pixel));
  }
};

/// Index of a root in the ascending list of roots.
CELLPOST_FN int64_t find_root(const int64_t* roots, int64_t n_roots, int64_t root) {
  int64_t low = 0, high = n_roots;
  while (low < high) {
    const int64_t mid = (low + high) / 2;
    if (roots[mid] < root) {
      low = mid + 1;
    } else {
      high = mid;
    }
  }
  return low;
}

struct CountComponent {
  const int32_t* labels;
  Shape shape;
  UnionFind sets;
  const int64_t* roots;
  int64_t n_roots;
  int64_t* size;

  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    const int64_t pixel = row * shape.x + x;
    const int32_t* line = labels + row * shape.x;
    if (line[x] == 0 || (x > 0 && line[x - 1] == line[x])) return;
    int64_t end = x + 1;
    while (end < shape.x && line[end] == line[x]) ++end;
    atomic_add(&size[find_root(roots, n_roots, sets.load(pixel))], end - x);
  }
};

/// best_size[id] = size of its largest component; then best_root[id] = the first of that size.
struct LargestSize {
  const int32_t* labels;
  const int64_t* roots;
  const int64_t* size;
  int64_t* best_size;
  CELLPOST_FN void operator()(int64_t i) const {
    atomic_max(&best_size[labels[roots[i]]], size[i]);
  }
};
struct LargestRoot {
  const int32_t* labels;
  const int64_t* roots;
  const int64_t* size;
  const int64_t* best_size;
  int64_t* best_root;
  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = labels[roots[i]];
    if (size[i] == best_size[id]) atomic_min(&best_root[id], roots[i]);
  }
};
struct KeepLargest {
  UnionFind sets;
  const int64_t* best_root;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t pixel) const {
    if (labels[pixel] != 0 && sets.load(pixel) != best_root[labels[pixel]]) labels[pixel] = 0;
  }
};

/// A component that is not the first of its object.
struct LaterFragment {
  const int32_t* labels;
  const int64_t* roots;
  const int64_t* first;  ///< by id
  CELLPOST_FN bool operator()(int64_t i) const { return roots[i] != first[labels[roots[i]]]; }
};
struct MarkLater {
  LaterFragment later;
  int64_t* marks;
  CELLPOST_FN void operator()(int64_t i) const { marks[i] = later(i) ? 1 : 0; }
};
/// The first component keeps the object's id, the others get ids above n in raster order.
struct NameFragment {
  LaterFragment later;
  const int64_t* n_later_before;
  int64_t n;
  int32_t* id_of_root;
  CELLPOST_FN void operator()(int64_t i) const {
    id_of_root[i] =
        later(i) ? static_cast<int32_t>(n + 1 + n_later_before[i]) : later.labels[later.roots[i]];
  }
};
struct SplitComponents {
  UnionFind sets;
  const int64_t* roots;
  int64_t n_roots;
  const int32_t* id_of_root;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t pixel) const {
    if (labels[pixel] != 0) {
      labels[pixel] = id_of_root[find_root(roots, n_roots, sets.load(pixel))];
    }
  }
};

}  // namespace cellpost
