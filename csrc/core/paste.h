// Mask crops pasted at boxes into one label image.
//
// A crop of h x w values is seen as having a border of zeros all round (the padded crop). Per axis,
// a pixel of the image has a tap: two neighbouring places in the padded crop and their weights.
// What a style calls for lies in the taps and in the order of the sum; one loop serves all styles.
//
// An instance keeps a pixel if its value there reaches the threshold and no better one has it: of
// the higher score, of equal ones that with the lower id. The rule orders any two instances, so
// that the image does not depend on the order in which they are pasted.
#pragma once

#include "core/atomic.h"
#include "core/image.h"

namespace cellpost {

enum class PasteStyle : int { detectron2 = 0, torchvision = 1, nearest = 2 };

/// Mask crops (n, h, w), or of differing sizes one after the other in one line.
struct Crops {
  FloatView values;
  int64_t n;
  int32_t height, width;
  const int64_t* start;  ///< of differing sizes: where each crop begins in the line, else null
  const int32_t* sizes;  ///< of differing sizes: height and width of each

  CELLPOST_FN int32_t height_of(int64_t i) const { return start ? sizes[2 * i] : height; }
  CELLPOST_FN int32_t width_of(int64_t i) const { return start ? sizes[2 * i + 1] : width; }
  CELLPOST_FN float at(int64_t i, int64_t y, int64_t x) const {
    return start ? values.at(0, 0, 0, start[i] + y * sizes[2 * i + 1] + x) : values.at(i, 0, y, x);
  }
};

/// Half-open ranges of rows and columns of the label image.
struct PasteWindow {
  int32_t y0, y1, x0, x1;
  CELLPOST_FN bool empty() const { return y0 >= y1 || x0 >= x1; }
};

/// Places `index` and `index` + 1 of the padded crop (from 0 to size + 1) and their weights.
struct Tap {
  int32_t index;
  float weight[2];
};

CELLPOST_FN double clamped(double v, double low, double high) {
  return !(v > low) ? low : (v < high ? v : high);
}

/// One axis of an instance: its side of the box against its side of the crop.
struct PasteAxis {
  PasteStyle style;
  int32_t n;           ///< values of the crop along the axis
  float low, high;     ///< box
  int64_t first, end;  ///< torchvision: the pixels of the box it rounds to

  /// `n_x`: the crop's width, by which torchvision widens the box along both axes.
  CELLPOST_FN PasteAxis(PasteStyle of, int32_t n_values, int32_t n_x, float box_low, float box_high)
      : style(of), n(n_values), low(box_low), high(box_high), first(0), end(0) {
    if (style != PasteStyle::torchvision) return;
    const float scale = static_cast<float>(static_cast<double>(n_x + 2) / n_x);
    const float half = (high - low) * 0.5f * scale, middle = (high + low) * 0.5f;
    constexpr double kFar = 1e15;  // beyond any image, and safe to convert
    first = static_cast<int64_t>(clamped(static_cast<double>(middle - half), -kFar, kFar));
    end = static_cast<int64_t>(clamped(static_cast<double>(middle + half), -kFar, kFar)) + 1;
  }

  CELLPOST_FN int64_t size() const { return end - first > 1 ? end - first : 1; }

  /// Pixels that the crop can reach, cut to [0, limit) after adding `offset`.
  CELLPOST_FN void range(int64_t offset, int64_t limit, int32_t* from, int32_t* to) const {
    double begin = static_cast<double>(first), stop = static_cast<double>(end);
    if (style != PasteStyle::torchvision) {
      // Bilinear values reach half a value of the crop beyond the box.
      const double a = static_cast<double>(low), b = static_cast<double>(high);
      const double reach = (style == PasteStyle::detectron2 ? (b - a) / n * 0.5 : 0.0) + 1.0;
      begin = std::floor(a - reach), stop = std::ceil(b + reach);
    }
    const double all = static_cast<double>(limit), shift = static_cast<double>(offset);
    *from = static_cast<int32_t>(clamped(begin + shift, 0.0, all));
    *to = static_cast<int32_t>(clamped(stop + shift, 0.0, all));
  }

  CELLPOST_FN Tap tap(int64_t pixel) const {
    switch (style) {
      case PasteStyle::nearest:
        return nearest(pixel);
      case PasteStyle::torchvision:
        return torchvision(pixel);
      default:
        return detectron2(pixel);
    }
  }

  // Without branches, so that loops over pixels can become SIMD.
  CELLPOST_FN Tap detectron2(int64_t pixel) const {
    const float middle = static_cast<float>(pixel) + 0.5f;
    const float grid = (middle - low) / (high - low) * 2.0f - 1.0f;
    const float at = fused(grid + 1.0f, static_cast<float>(n) * 0.5f, -0.5f);
    const bool inside = at > -1.0f && at < static_cast<float>(n);
    const float from = inside ? at : 0.0f;
    const float below = std::floor(from), w = from - below;
    return {inside ? static_cast<int32_t>(below) + 1 : n + 1,
            {inside ? 1.0f - w : 0.0f, inside ? w : 0.0f}};
  }

  CELLPOST_FN Tap torchvision(int64_t pixel) const {
    const bool inside = pixel >= first && pixel < end;
    const float scale = static_cast<float>(n + 2) / static_cast<float>(size());
    const float at = fused(scale, static_cast<float>(pixel - first) + 0.5f, -0.5f);
    const float last = static_cast<float>(n + 1);
    const float from = inside && at > 0.0f ? at : 0.0f;
    const auto i = static_cast<int32_t>(from < last ? from : last);
    const float over = from - static_cast<float>(i), w = over < 1.0f ? over : 1.0f;
    return {inside ? i : n + 1, {inside ? 1.0f - w : 0.0f, inside ? w : 0.0f}};
  }

  CELLPOST_FN Tap nearest(int64_t pixel) const {
    const double from = static_cast<double>(pixel) + 0.5 - static_cast<double>(low),
                 side = static_cast<double>(high) - static_cast<double>(low);
    const bool inside = from >= 0.0 && from < side;
    const auto i = static_cast<int32_t>(inside ? from * n / side : 0.0);
    return {inside ? (i < n ? i : n - 1) + 1 : n + 1, {inside ? 1.0f : 0.0f, 0.0f}};
  }
};

/// In which order the four weighted values are summed up; the tools differ.
enum class BilinearSum : int { grid_sample, corners, rows };

CELLPOST_FN BilinearSum bilinear_sum(PasteStyle style, const PasteAxis& y, const PasteAxis& x) {
  if (style != PasteStyle::torchvision) return BilinearSum::grid_sample;
  return y.size() + x.size() <= 128 ? BilinearSum::corners : BilinearSum::rows;
}

/// a b over c d, with the weights of rows and columns; of single values, or of packs of them for
/// which lane_fma() is there, too.
template <BilinearSum Sum, class F>
CELLPOST_FN F bilinear(F a, F b, F c, F d, F y0, F y1, F x0, F x1) {
  if constexpr (Sum == BilinearSum::rows) {
    return lane_fma(lane_fma(a, x0, b * x1), y0, lane_fma(c, x0, d * x1) * y1);
  } else {
    const F top = Sum == BilinearSum::corners ? lane_fma(y0 * x0, a, y0 * x1 * b)
                                              : lane_fma(y0 * x1, b, y0 * x0 * a);
    return lane_fma(y1 * x1, d, lane_fma(y1 * x0, c, top));
  }
}

/// One call's instances, and the image they go to.
struct Paste {
  Crops crops;
  FloatView boxes;  ///< (n, 4): x0, y0, x1, y1
  PasteStyle style;
  float threshold;
  Shape shape;           ///< of the label image
  int64_t offset[2];     ///< y, x of the boxes' origin in the label image
  int64_t first_id;      ///< id of the first instance
  const double* scores;  ///< of all instances by id, the first at 1
  PasteWindow* windows;  ///< where each instance can be; empty: not pasted
  int32_t* labels;       ///< ids of the instances, 0 where there is none

  CELLPOST_FN float box(int64_t i, int k) const { return boxes.at(i, 0, 0, k); }
  CELLPOST_FN PasteAxis y_axis(int64_t i) const {
    return {style, crops.height_of(i), crops.width_of(i), box(i, 1), box(i, 3)};
  }
  CELLPOST_FN PasteAxis x_axis(int64_t i) const {
    return {style, crops.width_of(i), crops.width_of(i), box(i, 0), box(i, 2)};
  }

  CELLPOST_FN bool is_finite_box(int64_t i) const {
    return is_finite(box(i, 0)) && is_finite(box(i, 1)) && is_finite(box(i, 2)) &&
           is_finite(box(i, 3));
  }
  CELLPOST_FN bool has_area(int64_t i) const {
    return box(i, 2) > box(i, 0) && box(i, 3) > box(i, 1) && crops.height_of(i) > 0 &&
           crops.width_of(i) > 0;
  }
  /// Where the instance can be; empty if nowhere.
  CELLPOST_FN PasteWindow find_window(int64_t i) const {
    PasteWindow window{0, 0, 0, 0};
    if (!has_area(i)) return window;
    y_axis(i).range(offset[0], shape.y, &window.y0, &window.y1);
    x_axis(i).range(offset[1], shape.x, &window.x0, &window.x1);
    return window;
  }

  /// Whether the instance with this id goes over the one with the other.
  CELLPOST_FN bool is_over(int32_t id, int32_t other) const {
    if (other == 0) return true;
    const double mine = scores[id], its = scores[other];
    return mine > its || (mine == its && id < other);
  }

  CELLPOST_FN float padded(int64_t i, int32_t y, int32_t x) const {
    const bool inside = y >= 1 && y <= crops.height_of(i) && x >= 1 && x <= crops.width_of(i);
    return inside ? crops.at(i, y - 1, x - 1) : 0.0f;
  }

  CELLPOST_FN float value(int64_t i, const Tap& y, const Tap& x, BilinearSum sum) const {
    const float a = padded(i, y.index, x.index), b = padded(i, y.index, x.index + 1),
                c = padded(i, y.index + 1, x.index), d = padded(i, y.index + 1, x.index + 1);
    const float y0 = y.weight[0], y1 = y.weight[1], x0 = x.weight[0], x1 = x.weight[1];
    switch (sum) {
      case BilinearSum::rows:
        return bilinear<BilinearSum::rows>(a, b, c, d, y0, y1, x0, x1);
      case BilinearSum::corners:
        return bilinear<BilinearSum::corners>(a, b, c, d, y0, y1, x0, x1);
      default:
        return bilinear<BilinearSum::grid_sample>(a, b, c, d, y0, y1, x0, x1);
    }
  }
};

// ---- what is checked and dropped before ---------------------------------------------------------

enum PasteCount : int { kLowScore, kDegenerate, kOutside, kPasteCounts };

/// Finds where an instance can be and why it is not pasted; notes the first row that has a box or a
/// score that is not finite.
struct PlanPaste {
  Paste paste;
  double min_score;
  int64_t* bad;     ///< first such row, of boxes and of scores
  int64_t* counts;  ///< by PasteCount

  CELLPOST_FN void operator()(int64_t i) const {
    PasteWindow window{0, 0, 0, 0};
    const double score = paste.scores[paste.first_id + i];
    if (!paste.is_finite_box(i)) {
      atomic_min(&bad[0], i);
    } else if (!(score - score == 0.0)) {
      atomic_min(&bad[1], i);
    } else if (score < min_score) {
      atomic_add(&counts[kLowScore], int64_t{1});
    } else if (!paste.has_area(i)) {
      atomic_add(&counts[kDegenerate], int64_t{1});
    } else {
      window = paste.find_window(i);
      if (window.empty()) atomic_add(&counts[kOutside], int64_t{1});
    }
    paste.windows[i] = window;
  }
};

CELLPOST_FN bool is_share(float v) { return v >= 0.0f && v <= 1.0f; }

// ---- what is left of each instance afterwards ---------------------------------------------------

/// Size and first pixel of every id, run by run.
struct CountPasted {
  int64_t width;
  int64_t *size, *first;
  CELLPOST_FN void operator()(int32_t id, int64_t row, int64_t x, int64_t end) const {
    atomic_add(&size[id], end - x);
    atomic_min(&first[id], row * width + x);
  }
};

/// index[rank] = row of the instance that has become label rank + 1.
struct NoteRow {
  const int32_t* ids;
  int64_t* index;
  CELLPOST_FN void operator()(int64_t rank) const { index[rank] = ids[rank] - 1; }
};

}  // namespace cellpost
