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
// Those that can overlap are found by the cells of core/box_cells.h.
#pragma once

#include "core/box_cells.h"
#include "core/nms_overlap.h"
#include "core/ordered.h"

namespace cellpost {

// ---- the table ----------------------------------------------------------------------------------

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
    const CellRange near(static_cast<double>(box[0]), static_cast<double>(box[1]),
                         static_cast<double>(box[2]), static_cast<double>(box[3]), k);
    if (near.n_cells() > static_cast<double>(table.class_start[k + 1] - table.class_start[k])) {
      return look_in_class(k, search);
    }
    for (int64_t row = near.row0; row <= near.row1; ++row) {
      for (int64_t col = near.col0; col <= near.col1; ++col) {
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
      const bool is_empty = table.class_start[k] == table.class_start[k + 1];
      if (!is_empty && can_overlap(k, own, least_ratio)) look(k, search);
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
    keys[i] = -ordered(scores[i] + 0.0);  // both zeros are equal
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
