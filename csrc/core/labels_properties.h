// What is known of each object of a label image: sizes, moments, perimeter, intensities, type and
// outline. Sums are of integers, or taken by one thread in raster order, so that they do not
// depend on the order of execution.
#pragma once

#include <cmath>

#include "core/labels.h"

namespace cellpost {

// ---- moments -----------------------------------------------------------------------------------

/// Sums over an object of the products of two coordinates, from the corner of its bounding box:
/// zz, yy, xx, yx, zx, zy. By id.
struct SecondSums {
  static constexpr int kPairs = 6;
  int64_t* sum[kPairs];
};

/// Whether the sums cannot exceed 64 bits: an object of some million pixels a side has none.
CELLPOST_FN bool has_sums(const ObjectTable& table, int64_t id) {
  double longest = 0.0;
  for (int k = 0; k < 3; ++k) {
    const auto extent = static_cast<double>(table.extent(id, k));
    longest = extent > longest ? extent : longest;
  }
  return static_cast<double>(table.size[id]) * longest * longest < 1e18;
}

struct ClearSums {
  SecondSums second;
  CELLPOST_FN void operator()(int64_t id) const {
    for (int k = 0; k < SecondSums::kPairs; ++k) second.sum[k][id] = 0;
  }
};

/// One update a horizontal run, by the item at its first pixel.
struct AddSecondSums {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  SecondSums second;

  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    const int32_t* line = labels + row * shape.x;
    const int32_t id = line[x];
    if (id == 0 || (x > 0 && line[x - 1] == id) || !has_sums(table, id)) return;
    int64_t end = x + 1;
    while (end < shape.x && line[end] == id) ++end;
    const int64_t n = end - x, a = x - table.low[2][id], b = a + n - 1;
    const int64_t z = row / shape.y - table.low[0][id], y = row % shape.y - table.low[1][id];
    const int64_t sum_x = (a + b) * n / 2;
    const int64_t sum_xx = squares(b) - squares(a - 1);
    atomic_add(&second.sum[1][id], y * y * n);
    atomic_add(&second.sum[2][id], sum_xx);
    atomic_add(&second.sum[3][id], y * sum_x);
    if (shape.ndim == 2) return;
    atomic_add(&second.sum[0][id], z * z * n);
    atomic_add(&second.sum[4][id], z * sum_x);
    atomic_add(&second.sum[5][id], z * y * n);
  }

 private:
  /// 0 + 1 + 4 + ... + n^2; 0 for n = -1.
  CELLPOST_FN static int64_t squares(int64_t n) {
    const int64_t sum = n * (n + 1) / 2;  // one of this and 2 n + 1 is a multiple of 3
    return sum % 3 == 0 ? sum / 3 * (2 * n + 1) : sum * ((2 * n + 1) / 3);
  }
};

/// Writes a row for each listed object. Bounding boxes are lows, then highs (half-open); axes are
/// in the order of the image.
struct WriteProperties {
  ObjectTable table;
  SecondSums second;
  int ndim;
  const int32_t* ids;
  int32_t* label;
  int64_t* area;
  int64_t* bbox;       ///< (n, 2 ndim)
  double* centroid;    ///< (n, ndim)
  double* covariance;  ///< (n, ndim, ndim); NaN without sums

  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = ids[i];
    const int skip = 3 - ndim;
    const auto n = static_cast<double>(table.size[id]);
    double mean[3];
    label[i] = id;
    area[i] = table.size[id];
    for (int k = skip; k < 3; ++k) {
      bbox[2 * ndim * i + k - skip] = table.low[k][id];
      bbox[2 * ndim * i + ndim + k - skip] = table.high[k][id];
      const int64_t from_corner = table.sum[k][id] - table.low[k][id] * table.size[id];
      mean[k] = static_cast<double>(from_corner) / n;
      centroid[ndim * i + k - skip] = static_cast<double>(table.low[k][id]) + mean[k];
    }
    for (int a = skip; a < 3; ++a) {
      for (int b = skip; b < 3; ++b) {
        const int pair = a == b ? a : 6 - a - b;
        covariance[(ndim * i + a - skip) * ndim + b - skip] =
            has_sums(table, id) ? static_cast<double>(second.sum[pair][id]) / n - mean[a] * mean[b]
                                : NAN;
      }
    }
  }
};

// ---- perimeter ---------------------------------------------------------------------------------

/// Counts the border pixels of 2D objects by the length they stand for: 1, sqrt 2, or their mean
/// (Benkrid and Crookes 2000, as in scikit-image). A pixel is of the border if a neighbour over an
/// edge is not of its object; what lies outside the image is not.
struct CountBorder {
  const int32_t* labels;
  Shape shape;
  int64_t* count[3];  ///< by id

  CELLPOST_FN void operator()(int64_t y, int64_t x) const {
    const int32_t id = labels[y * shape.x + x];
    if (id == 0 || !is_border(id, y, x)) return;
    int straight = 0, diagonal = 0;
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dx = -1; dx <= 1; ++dx) {
        if ((dy == 0 && dx == 0) || !is_border(id, y + dy, x + dx)) continue;
        ++(dy == 0 || dx == 0 ? straight : diagonal);
      }
    }
    const int kind = kind_of(straight, diagonal);
    if (kind >= 0) atomic_add(&count[kind][id], int64_t{1});
  }

 private:
  CELLPOST_FN bool is(int32_t id, int64_t y, int64_t x) const {
    return shape.contains(0, y, x) && labels[y * shape.x + x] == id;
  }
  CELLPOST_FN bool is_border(int32_t id, int64_t y, int64_t x) const {
    return is(id, y, x) &&
           !(is(id, y - 1, x) && is(id, y + 1, x) && is(id, y, x - 1) && is(id, y, x + 1));
  }
  CELLPOST_FN static int kind_of(int straight, int diagonal) {
    if ((straight == 2 || straight == 3) && diagonal <= 2) return 0;
    if (straight == 0 && diagonal == 2) return 1;
    if (straight == 1 && diagonal == 3) return 1;
    return straight == 1 && (diagonal == 1 || diagonal == 2) ? 2 : -1;
  }
};

struct ClearBorder {
  int64_t* count[3];
  CELLPOST_FN void operator()(int64_t id) const {
    for (int k = 0; k < 3; ++k) count[k][id] = 0;
  }
};

struct WritePerimeter {
  const int32_t* ids;
  const int64_t* count[3];
  double* perimeter;
  CELLPOST_FN void operator()(int64_t i) const {
    const double root = sqrt(2.0);
    const int32_t id = ids[i];
    perimeter[i] = static_cast<double>(count[0][id]) + static_cast<double>(count[1][id]) * root +
                   static_cast<double>(count[2][id]) * ((1.0 + root) / 2.0);
  }
};

// ---- intensity ---------------------------------------------------------------------------------

/// Mean, smallest and largest value; NaN wherever a pixel is NaN.
struct MeasureIntensity {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  FloatView intensity;
  const int32_t* ids;
  double* mean;
  double* smallest;
  double* largest;

  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = ids[i];
    double total = 0.0, low = INFINITY, high = -INFINITY;
    bool has_nan = false;
    for (int64_t z = table.low[0][id]; z < table.high[0][id]; ++z) {
      for (int64_t y = table.low[1][id]; y < table.high[1][id]; ++y) {
        for (int64_t x = table.low[2][id]; x < table.high[2][id]; ++x) {
          if (labels[(z * shape.y + y) * shape.x + x] != id) continue;
          const double v = intensity.exact(0, z, y, x);
          has_nan = has_nan || v != v;
          total += v;
          low = v < low ? v : low;
          high = v > high ? v : high;
        }
      }
    }
    mean[i] = total / static_cast<double>(table.size[id]);
    smallest[i] = has_nan ? total : low;
    largest[i] = has_nan ? total : high;
  }
};

// ---- types -------------------------------------------------------------------------------------

/// The type of each pixel, from a map of ids or from the largest of several channels (the first of
/// equals; channels that are NaN do not count).
struct PixelTypes {
  const int32_t* map;  ///< contiguous, or null
  FloatView channels;
  int32_t n_types;
  Shape shape;

  CELLPOST_FN int32_t at(int64_t y, int64_t x) const {
    if (map) return map[y * shape.x + x];
    int32_t best = 0;
    double most = -INFINITY;
    for (int32_t c = 0; c < n_types; ++c) {
      const double v = channels.exact(c, 0, y, x);
      if (v > most) most = v, best = c;
    }
    return best;
  }
};

/// Each object's most frequent type, the smallest of equals; type 0, background, only if there is
/// no other. `count` has room for n_types of each object of a batch.
struct FindType {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  PixelTypes types;
  const int32_t* ids;
  int64_t first;  ///< of the objects that are counted together
  int32_t* count;
  int32_t* type;
  double* share;

  CELLPOST_FN void operator()(int64_t k) const {
    const int64_t i = first + k;
    const int32_t id = ids[i];
    int32_t* const mine = count + k * types.n_types;
    for (int32_t t = 0; t < types.n_types; ++t) mine[t] = 0;
    for (int64_t y = table.low[1][id]; y < table.high[1][id]; ++y) {
      for (int64_t x = table.low[2][id]; x < table.high[2][id]; ++x) {
        if (labels[y * shape.x + x] == id) ++mine[types.at(y, x)];
      }
    }
    int32_t best = 0;
    for (int32_t t = 1; t < types.n_types; ++t) {
      if (mine[t] > (best == 0 ? 0 : mine[best])) best = t;
    }
    type[i] = best;
    share[i] = static_cast<double>(mine[best]) / (static_cast<double>(table.size[id]) + 1.0e-6);
  }
};

// ---- outline -----------------------------------------------------------------------------------

/// The outer boundary of the piece that holds an object's first pixel, along pixel edges, clockwise
/// from that pixel's upper left corner and back to it. Only corners where it turns are written, as
/// x, y. Pixels that touch over a corner are one piece, so that an outline of pieces joined over
/// edges nowhere touches itself.
struct TraceOutline {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  const int32_t* ids;
  int64_t* offsets;  ///< counts are written here if there are no points, else read
  int32_t* points;

  CELLPOST_FN void operator()(int64_t i) const {
    // East, south, west, north; the pixels ahead of a corner on the left and on the right.
    const int step[4][2] = {{0, 1}, {1, 0}, {0, -1}, {-1, 0}};
    const int left[4][2] = {{-1, 0}, {0, 0}, {0, -1}, {-1, -1}};
    const int right[4][2] = {{0, 0}, {0, -1}, {-1, -1}, {-1, 0}};
    const int32_t id = ids[i];
    const int64_t y0 = table.first[id] / shape.x, x0 = table.first[id] % shape.x;
    int64_t y = y0, x = x0, n = 0;
    int heading = 0;
    write(i, n++, y, x);
    do {
      y += step[heading][0];
      x += step[heading][1];
      int turn = 1;
      if (is(id, y + left[heading][0], x + left[heading][1])) {
        turn = 3;
      } else if (is(id, y + right[heading][0], x + right[heading][1])) {
        turn = 0;
      }
      if (turn == 0) continue;
      heading = (heading + turn) % 4;
      write(i, n++, y, x);
    } while (y != y0 || x != x0);
    if (points == nullptr) offsets[i] = n;
  }

 private:
  CELLPOST_FN bool is(int32_t id, int64_t y, int64_t x) const {
    return shape.contains(0, y, x) && labels[y * shape.x + x] == id;
  }
  CELLPOST_FN void write(int64_t i, int64_t n, int64_t y, int64_t x) const {
    if (points == nullptr) return;
    points[2 * (offsets[i] + n)] = static_cast<int32_t>(x);
    points[2 * (offsets[i] + n) + 1] = static_cast<int32_t>(y);
  }
};

}  // namespace cellpost
