// Square cells by which boxes that can overlap are found, in a hash table. A box is entered once,
// at the corner x0, y0, among the cells of its size class: boxes whose longer side is at most the
// same power of two, and cells of twice that. Huge boxes are looked for in few large cells and
// small ones in small cells, so that no size spoils the table for the others.
#pragma once

#include "core/paste.h"

namespace cellpost {

constexpr int kSizeClasses = 64;
constexpr int kSmallestClass =
    -20;  ///< exponent of its cells' side; the largest class has one cell

/// Class of boxes whose longer side is `side`; rounding may not put one into a class too small.
CELLPOST_FN int size_class(double side) {
  constexpr double kLargest = 4398046511104.0;  // 2^42, above which ilogb could overflow an int
  if (!(side < kLargest)) return kSizeClasses - 1;
  if (!(side > 0.0)) return 0;
  const int k = std::ilogb(side * 1.0001) + 1 - kSmallestClass;
  return k < 0 ? 0 : (k < kSizeClasses - 1 ? k : kSizeClasses - 1);
}

CELLPOST_FN int64_t cell_at(double v, int of_class) {
  if (of_class == kSizeClasses - 1) return 0;
  constexpr double kFar = 1e15;  // beyond, cells are one
  return static_cast<int64_t>(
      clamped(std::floor(std::ldexp(v, -(of_class + kSmallestClass + 1))), -kFar, kFar));
}

CELLPOST_FN uint64_t cell_hash(int of_class, int64_t y, int64_t x) {
  uint64_t h = static_cast<uint64_t>(x) * 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 29) ^ static_cast<uint64_t>(y)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 32) ^ static_cast<uint64_t>(of_class)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

/// Whether boxes of two classes can overlap if the longer side of the smaller one must be more than
/// a share of the other's.
CELLPOST_FN bool can_overlap(int a, int b, double least_ratio) {
  // Sides of neighbouring classes differ by less than 2^(distance + 1); the ends hold the rest.
  const int low = a < b ? a : b, high = a < b ? b : a;
  return high - low <= 1 || low == 0 || high == kSizeClasses - 1 ||
         std::ldexp(1.01, 1 - (high - low)) >= least_ratio;
}

/// Cells of a class, both ends included, in which boxes can begin that overlap with x0, y0, x1, y1.
struct CellRange {
  int64_t row0, row1, col0, col1;

  CELLPOST_FN CellRange(double x0, double y0, double x1, double y1, int of_class) {
    const double reach =
        of_class == kSizeClasses - 1 ? 0.0 : std::ldexp(1.0, of_class + kSmallestClass);
    row0 = cell_at(y0 - reach, of_class), row1 = cell_at(y1, of_class);
    col0 = cell_at(x0 - reach, of_class), col1 = cell_at(x1, of_class);
  }
  CELLPOST_FN double n_cells() const {
    return static_cast<double>(row1 - row0 + 1) * static_cast<double>(col1 - col0 + 1);
  }
};

}  // namespace cellpost
