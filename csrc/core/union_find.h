// Sets of items that many threads unite at the same time.
#pragma once

#include "core/atomic.h"
#include "core/image.h"

namespace cellpost {

/// Union-find by hooking to the smaller index: the root of a set is its
/// first item, whatever the order of execution (Jaiganesh and Burtscher, HPDC 2018).
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
  /// Halves the path: each item on the way is hooked to its grandparent, which stays an ancestor
  /// whatever other threads do.
  CELLPOST_FN int64_t find(int64_t i) const {
    for (int64_t up = load(i); up != i; up = load(i)) {
      const int64_t over = load(up);
      if (over == up) return up;
      store(i, over);
      i = over;
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

/// Every item is a set of its own.
struct StartSets {
  IndexImage parent;
  CELLPOST_FN void operator()(int64_t i) const { parent.set(i, i); }
};

}  // namespace cellpost
