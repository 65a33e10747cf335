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

/// Fills the table, run by run.
struct MeasureObjects {
  Shape shape;
  ObjectTable table;

  CELLPOST_FN void operator()(int32_t id, int64_t row, int64_t x, int64_t end) const {
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

/// out[i] = source[i]
template <class T>
struct Copy {
  const T* source;
  T* out;
  CELLPOST_FN void operator()(int64_t i) const { out[i] = source[i]; }
};

/// out[i] = source[ids[i]]
template <class T>
struct Gather {
  const T* source;
  const int32_t* ids;
  T* out;
  CELLPOST_FN void operator()(int64_t i) const { out[i] = source[ids[i]]; }
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

}  // namespace cellpost
