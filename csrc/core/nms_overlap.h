// How much detections overlap: by their boxes, or by the pixels of their masks, kept as bits.
#pragma once

#include "core/atomic.h"
#include "core/bits.h"
#include "core/paste.h"

namespace cellpost {

enum class OverlapMetric : int { iou = 0, ios = 1 };

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

// ---- bits of instances --------------------------------------------------------------------------

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

}  // namespace cellpost
