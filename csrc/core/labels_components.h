// Connected components of equal labels, and what becomes of an object that has several.
#pragma once

#include "core/labels.h"

namespace cellpost {

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
