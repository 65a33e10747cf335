// Which of overlapping detections stay: greedy suppression without looking at all pairs.
//
// Detections are known by their rank, best first. Each waits for the better ones that it overlaps
// too much: if one of them stays it goes, and the best one that stays is its keeper; it stays if
// all of them went. Any number of detections can be worked on at once, in any order and in several
// rounds: one that has to wait is looked at again, and what is decided never changes. So the answer
// is that of the sequential algorithm.
//
// They come in waves, each as large as all before: first those of a wave go that a detection kept
// from earlier waves suppresses, then the rest is decided among itself. Where thousands lie on one
// place all but the few that stay are out of the way early.
//
// Those that can overlap are found in a hash table of square cells: a detection is entered once, at
// the corner x0, y0 of its box, among the cells of its size class: boxes whose longer side is at
// most the same power of two, and cells of twice that. Huge boxes are looked for in few large cells
// and small ones in small cells, so that no size spoils the table for the others.
#pragma once

#include "core/atomic.h"
#include "core/bits.h"
#include "core/paste.h"

namespace cellpost {

enum class OverlapMetric : int { iou = 0, ios = 1 };

/// An integer that orders as the number does; both zeros are equal.
CELLPOST_FN int64_t score_order(double v) {
  union {
    double d;
    int64_t i;
  } both{v + 0.0};
  return both.i < 0 ? INT64_MIN - both.i : both.i;
}

/// x0, y0, x1, y1 of each detection by rank.
template <class Real>
struct RankedBoxes {
  const Real* values;
  CELLPOST_FN const Real* of(int64_t rank) const { return values + 4 * rank; }
  CELLPOST_FN Real side(int32_t rank, int axis) const {
    return of(rank)[2 + axis] - of(rank)[axis];
  }
  CELLPOST_FN Real area(int32_t rank) const { return side(rank, 0) * side(rank, 1); }
  /// Others overlap with nothing: they stay, and are in no table.
  CELLPOST_FN bool has_area(int64_t rank) const {
    return of(rank)[2] > of(rank)[0] && of(rank)[3] > of(rank)[1];
  }
};

// ---- overlaps that suppress ---------------------------------------------------------------------

/// Of boxes, in their own precision, as torchvision and SAHI compute it.
template <class Real>
struct BoxOverlap {
  RankedBoxes<Real> boxes;
  OverlapMetric metric;
  double threshold;
  bool inclusive;  ///< at the threshold it suppresses, too

  CELLPOST_FN bool of(Real inter, Real a, Real b) const {
    const Real whole = metric == OverlapMetric::iou ? a + b - inter : (a < b ? a : b);
    const double share = static_cast<double>(inter / whole);  // nan, of two points, is no overlap
    return inclusive ? share >= static_cast<double>(static_cast<Real>(threshold))
                     : share > threshold;
  }
  CELLPOST_FN bool operator()(int32_t better, int32_t rank) const {
    const Real *const p = boxes.of(better), *const q = boxes.of(rank);
    const Real w = (p[2] < q[2] ? p[2] : q[2]) - (p[0] > q[0] ? p[0] : q[0]);
    const Real h = (p[3] < q[3] ? p[3] : q[3]) - (p[1] > q[1] ? p[1] : q[1]);
    if (!(w > Real{0} && h > Real{0})) return false;
    return of(w * h, boxes.area(better), boxes.area(rank));
  }
};

/// Pixels of instances, as bits: rows of the window one after the other, each from a new word on.
struct InstanceBits {
  const PasteWindow* windows;  ///< by row of the input
  const int64_t* start;        ///< first word of each
  uint64_t* words;

  static CELLPOST_FN int64_t pitch(const PasteWindow& w) {
    return (int64_t{w.x1} - w.x0 + 63) / 64;
  }
  static CELLPOST_FN int64_t n_words(const PasteWindow& w) {
    return w.empty() ? 0 : (int64_t{w.y1} - w.y0) * pitch(w);
  }
  /// Pixels x..x + 63 of a row of the window; there are none beyond its ends.
  CELLPOST_FN uint64_t word(int64_t i, int32_t y, int32_t x) const {
    const PasteWindow& w = windows[i];
    const uint64_t* const line = words + start[i] + (int64_t{y} - w.y0) * pitch(w);
    const int64_t from = int64_t{x} - w.x0, k = from >> 6;
    const int shift = static_cast<int>(from & 63);
    const uint64_t low = k >= 0 && k < pitch(w) ? line[k] >> shift : 0;
    const uint64_t high =
        shift != 0 && k + 1 >= 0 && k + 1 < pitch(w) ? line[k + 1] << (64 - shift) : 0;
    return low | high;
  }
};

CELLPOST_FN PasteWindow common(const PasteWindow& a, const PasteWindow& b) {
  return {a.y0 > b.y0 ? a.y0 : b.y0, a.y1 < b.y1 ? a.y1 : b.y1, a.x0 > b.x0 ? a.x0 : b.x0,
          a.x1 < b.x1 ? a.x1 : b.x1};
}

/// Of instances' pixels, counted.
struct MaskOverlap {
  InstanceBits bits;
  const int32_t* order;  ///< row of the input by rank
  const int64_t* areas;  ///< pixels by row
  OverlapMetric metric;
  double threshold;
  const PasteWindow* tiles;  ///< what each row's tile covers, or null: see TileOverlap

  CELLPOST_FN int64_t shared(int64_t i, int64_t j, const PasteWindow& where) const {
    int64_t n = 0;
    for (int32_t y = where.y0; y < where.y1; ++y) {
      for (int32_t x = where.x0; x < where.x1; x += 64) {
        const int32_t left = where.x1 - x;
        const uint64_t within = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
        n += count_bits(bits.word(i, y, x) & bits.word(j, y, x) & within);
      }
    }
    return n;
  }
  CELLPOST_FN bool operator()(int32_t better, int32_t rank) const {
    const int64_t i = order[better], j = order[rank];
    PasteWindow where = common(bits.windows[i], bits.windows[j]);
    int64_t a = areas[i], b = areas[j];
    if (tiles != nullptr) {
      const PasteWindow both = common(tiles[i], tiles[j]);
      where = common(where, both);
      if (where.empty()) return false;
      a = shared(i, i, common(bits.windows[i], both));
      b = shared(j, j, common(bits.windows[j], both));
    }
    if (where.empty()) return false;
    const int64_t inter = shared(i, j, where);
    const int64_t whole = metric == OverlapMetric::iou ? a + b - inter : (a < b ? a : b);
    return static_cast<double>(inter) > threshold * static_cast<double>(whole);
  }
};

/// Of boxes found in overlapping tiles, by what both tiles saw: a box that one tile cuts is
/// compared with the same part of the other.
struct TileOverlap {
  BoxOverlap<double> overlap;
  const int32_t* order;      ///< row of the input by rank
  const PasteWindow* tiles;  ///< what each row's tile covers

  CELLPOST_FN bool operator()(int32_t better, int32_t rank) const {
    const PasteWindow both = common(tiles[order[better]], tiles[order[rank]]);
    if (both.empty()) return false;
    double cut[2][4];
    const int32_t ranks[2] = {better, rank};
    for (int k = 0; k < 2; ++k) {
      const double* const box = overlap.boxes.of(ranks[k]);
      cut[k][0] = clamped(box[0], both.x0, both.x1);
      cut[k][1] = clamped(box[1], both.y0, both.y1);
      cut[k][2] = clamped(box[2], both.x0, both.x1);
      cut[k][3] = clamped(box[3], both.y0, both.y1);
    }
    const BoxOverlap<double> of_parts{
        {cut[0]}, overlap.metric, overlap.threshold, overlap.inclusive};
    return of_parts(0, 1);
  }
};

// ---- the table ----------------------------------------------------------------------------------

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

template <class Real>
struct BoxTable {
  RankedBoxes<Real> boxes;
  int64_t n_buckets;           ///< a power of two
  const int32_t* members;      ///< ranks by bucket, ascending within each
  const Real* near;            ///< their boxes
  const int64_t* start;        ///< of each bucket, and the end
  const int32_t* of_class;     ///< ranks by size class, ascending within each
  const int64_t* class_start;  ///< of each class, and the end

  CELLPOST_FN double longer_side(int32_t rank) const {
    const Real w = boxes.side(rank, 0), h = boxes.side(rank, 1);
    return static_cast<double>(w > h ? w : h);
  }
  CELLPOST_FN int64_t bucket(int k, int64_t y, int64_t x) const {
    return static_cast<int64_t>(cell_hash(k, y, x) & static_cast<uint64_t>(n_buckets - 1));
  }
};

/// Class and bucket of the box with the rank members[i].
template <class Real>
struct EnterBox {
  BoxTable<Real> table;
  int64_t* bucket;
  int64_t* size_class_of;
  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t rank = table.members[i];
    const int k = size_class(table.longer_side(rank));
    const Real* const box = table.boxes.of(rank);
    size_class_of[i] = k;
    bucket[i] = table.bucket(k, cell_at(static_cast<double>(box[1]), k),
                             cell_at(static_cast<double>(box[0]), k));
  }
};

template <class Real>
struct CopyBox {
  RankedBoxes<Real> boxes;
  const int32_t* members;
  Real* to;
  CELLPOST_FN void operator()(int64_t i) const {
    for (int k = 0; k < 4; ++k) to[4 * i + k] = boxes.of(members[i])[k];
  }
};

/// start[k] from sorted keys below `end`: the place at which k, or the next one there is, begins.
struct FindStarts {
  const int64_t* sorted;
  int64_t n, end;
  int64_t* start;
  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t from = i == 0 ? 0 : sorted[i - 1] + 1, to = i == n ? end : sorted[i];
    for (int64_t k = from; k <= to; ++k) start[k] = i;
  }
};

// ---- the decision -------------------------------------------------------------------------------

constexpr int32_t kUndecided = -1;

template <class Real, class Overlap>
struct Suppress {
  BoxTable<Real> table;
  Overlap overlap;
  const int64_t* classes;  ///< by rank, or null: only those of one class suppress each other
  /// A box suppresses only others whose longer side is more than this share of its own.
  double least_ratio;
  int32_t* keeper;  ///< by rank; kUndecided at first, itself if it stays
  bool is_last;     ///< the table holds all that are left to be a keeper: what finds none stays
  bool finds_best;  ///< the best keeper is looked for, not any

  /// What a box knows of its keeper so far.
  struct Search {
    int32_t rank, best;
    bool waits;  ///< for one that it overlaps with
    CELLPOST_FN bool is_over(bool finds_best) const {
      return waits || (!finds_best && best != rank);
    }
  };

  CELLPOST_FN bool touches(const Real* p, const Real* q) const {
    return p[0] < q[2] && q[0] < p[2] && p[1] < q[3] && q[1] < p[3];
  }
  /// `other`, better than the best keeper so far and touching the box, may be a better one.
  CELLPOST_FN void consider(int32_t other, Search& search) const {
    const int32_t its = atomic_load(&keeper[other]);
    if (its != other && its != kUndecided) return;
    if (classes != nullptr && classes[other] != classes[search.rank]) return;
    if (!overlap(other, search.rank)) return;
    search.waits = its == kUndecided;
    search.best = search.waits ? search.best : other;
  }
  CELLPOST_FN void look_in_bucket(int64_t bucket, Search& search) const {
    for (int64_t k = table.start[bucket]; k < table.start[bucket + 1]; ++k) {
      if (table.members[k] >= search.best) return;
      if (!touches(table.near + 4 * k, table.boxes.of(search.rank))) continue;
      consider(table.members[k], search);
      if (search.is_over(finds_best)) return;
    }
  }
  CELLPOST_FN void look_in_class(int of_class, Search& search) const {
    for (int64_t k = table.class_start[of_class]; k < table.class_start[of_class + 1]; ++k) {
      const int32_t other = table.of_class[k];
      if (other >= search.best) return;
      if (!touches(table.boxes.of(other), table.boxes.of(search.rank))) continue;
      consider(other, search);
      if (search.is_over(finds_best)) return;
    }
  }
  /// Boxes of the class that begin within its reach of the box; all, where there are more cells.
  CELLPOST_FN void look(int k, Search& search) const {
    const Real* const box = table.boxes.of(search.rank);
    const double reach = k == kSizeClasses - 1 ? 0.0 : std::ldexp(1.0, k + kSmallestClass);
    const int64_t row0 = cell_at(static_cast<double>(box[1]) - reach, k),
                  row1 = cell_at(static_cast<double>(box[3]), k),
                  col0 = cell_at(static_cast<double>(box[0]) - reach, k),
                  col1 = cell_at(static_cast<double>(box[2]), k);
    const double n_cells =
        static_cast<double>(row1 - row0 + 1) * static_cast<double>(col1 - col0 + 1);
    if (n_cells > static_cast<double>(table.class_start[k + 1] - table.class_start[k])) {
      return look_in_class(k, search);
    }
    for (int64_t row = row0; row <= row1; ++row) {
      for (int64_t col = col0; col <= col1; ++col) {
        look_in_bucket(table.bucket(k, row, col), search);
        if (search.is_over(finds_best)) return;
      }
    }
  }

  CELLPOST_FN void operator()(int64_t i) const {
    const auto rank = static_cast<int32_t>(i);
    const int own = size_class(table.longer_side(rank));
    Search search{rank, rank, false};
    for (int k = 0; k < kSizeClasses && !search.is_over(finds_best); ++k) {
      if (table.class_start[k] == table.class_start[k + 1]) continue;
      // Sides of neighbouring classes differ by less than 2^(distance + 1); the ends hold the rest.
      const int apart = k > own ? k - own : own - k;
      const int low = k < own ? k : own, high = k < own ? own : k;
      if (apart > 1 && low > 0 && high < kSizeClasses - 1 &&
          std::ldexp(1.01, 1 - apart) < least_ratio) {
        continue;
      }
      look(k, search);
    }
    if (!search.waits && (search.best != rank || is_last)) atomic_store(&keeper[rank], search.best);
  }
};

/// A box without area stays, whatever there is.
template <class Real>
struct StartKeeper {
  RankedBoxes<Real> boxes;
  int32_t* keeper;
  CELLPOST_FN void operator()(int64_t i) const {
    keeper[i] = boxes.has_area(i) ? kUndecided : static_cast<int32_t>(i);
  }
};

struct IsUndecided {
  const int32_t* keeper;
  CELLPOST_FN bool operator()(int64_t i) const { return keeper[i] == kUndecided; }
};

template <class Job>
struct Listed {
  Job job;
  const int32_t* items;
  CELLPOST_FN void operator()(int64_t i) const { job(items[i]); }
};

// ---- ranks --------------------------------------------------------------------------------------

/// Keys that sort the best first. Notes the first box and score that are not finite.
struct StartRanks {
  FloatView boxes;  ///< (n, 4)
  const double* scores;
  int64_t* keys;
  int32_t* order;
  int64_t* bad;
  CELLPOST_FN void operator()(int64_t i) const {
    for (int k = 0; k < 4; ++k) {
      const double v = boxes.exact(i, 0, 0, k);
      if (!(v - v == 0.0)) atomic_min(&bad[0], i);
    }
    if (!(scores[i] - scores[i] == 0.0)) atomic_min(&bad[1], i);
    keys[i] = -score_order(scores[i]);
    order[i] = static_cast<int32_t>(i);
  }
};

template <class Real>
struct RankBoxes {
  FloatView boxes;
  const int32_t* order;
  Real* out;
  CELLPOST_FN void operator()(int64_t rank) const {
    for (int k = 0; k < 4; ++k) {
      out[4 * rank + k] = static_cast<Real>(boxes.exact(order[rank], 0, 0, k));
    }
  }
};

struct IsKeeper {
  const int32_t* keeper;
  CELLPOST_FN bool operator()(int64_t i) const { return keeper[i] == i; }
};
template <class Real>
struct CanKeep {
  RankedBoxes<Real> boxes;
  const int32_t* keeper;
  CELLPOST_FN bool operator()(int64_t i) const { return keeper[i] == i && boxes.has_area(i); }
};

/// keep[k] = row of the k-th that stays; keeper_of[row] = row of its keeper.
struct WriteKeep {
  const int32_t *kept, *order;
  int64_t* keep;
  CELLPOST_FN void operator()(int64_t i) const { keep[i] = order[kept[i]]; }
};
struct WriteKeeper {
  const int32_t *keeper, *order;
  int64_t* keeper_of;
  CELLPOST_FN void operator()(int64_t i) const { keeper_of[order[i]] = order[keeper[i]]; }
};

/// The sort keys of groups.
struct StartMembers {
  const int32_t* keeper;
  int64_t* keys;
  int32_t* members;
  CELLPOST_FN void operator()(int64_t rank) const {
    keys[rank] = keeper[rank];
    members[rank] = static_cast<int32_t>(rank);
  }
};

// ---- masks --------------------------------------------------------------------------------------

/// Where the pixels of an instance can be, and words for them; their sum, in thousands so that it
/// holds any; and the first box that is not finite in float32.
struct FindWindow {
  Paste paste;
  int64_t* n_words;
  int64_t *bad_box, *n_thousands;
  CELLPOST_FN void operator()(int64_t i) const {
    if (!paste.is_finite_box(i)) {
      atomic_min(bad_box, i);
      return;
    }
    paste.windows[i] = paste.find_window(i);
    n_words[i] = InstanceBits::n_words(paste.windows[i]);
    atomic_add(n_thousands, n_words[i] / 1000);
  }
};

struct CountArea {
  InstanceBits bits;
  int64_t* areas;
  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t n = InstanceBits::n_words(bits.windows[i]);
    int64_t area = 0;
    for (int64_t k = 0; k < n; ++k) area += count_bits(bits.words[bits.start[i] + k]);
    areas[i] = area;
  }
};

struct RankWindows {
  const PasteWindow* windows;
  const int32_t* order;
  double* boxes;
  CELLPOST_FN void operator()(int64_t rank) const {
    const PasteWindow& w = windows[order[rank]];
    boxes[4 * rank] = w.x0;
    boxes[4 * rank + 1] = w.y0;
    boxes[4 * rank + 2] = w.x1;
    boxes[4 * rank + 3] = w.y1;
  }
};

// ---- merging ------------------------------------------------------------------------------------

/// A keeper takes in those it suppressed, best first: its box grows to hold each that it, grown,
/// still overlaps enough. One item a keeper.
template <class Real>
struct MergeGroup {
  BoxOverlap<double> overlap;
  RankedBoxes<Real> boxes;
  const int32_t* kept;     ///< ranks
  const int64_t* sorted;   ///< keepers of all detections, ascending
  const int32_t* members;  ///< their ranks, ascending for each keeper
  int64_t n;
  double* merged;  ///< (n_kept, 4)

  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t keeper = kept[i];
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted[middle] < keeper) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    double pair[2][4];
    for (int k = 0; k < 4; ++k) pair[0][k] = static_cast<double>(boxes.of(keeper)[k]);
    for (int64_t m = low; m < n && sorted[m] == keeper; ++m) {
      if (members[m] == keeper) continue;
      for (int k = 0; k < 4; ++k) pair[1][k] = static_cast<double>(boxes.of(members[m])[k]);
      const BoxOverlap<double> of_pair{{pair[0]}, overlap.metric, overlap.threshold, true};
      if (!of_pair(0, 1)) continue;
      for (int k = 0; k < 2; ++k) {
        pair[0][k] = pair[0][k] < pair[1][k] ? pair[0][k] : pair[1][k];
        pair[0][2 + k] = pair[0][2 + k] > pair[1][2 + k] ? pair[0][2 + k] : pair[1][2 + k];
      }
    }
    for (int k = 0; k < 4; ++k) merged[4 * i + k] = pair[0][k];
  }
};

}  // namespace cellpost
