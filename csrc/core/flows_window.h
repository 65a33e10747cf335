// What the stages of flow following need where an image is worked on in windows: points of a part
// of the window alone, and bins of the whole image that lie in a window.
#pragma once

#include "core/flows_seeds.h"
#include "core/flows_trace.h"

namespace cellpost {

/// A part of a window, and the end bins of its pixels: kEscaped is still to be followed.
struct Region {
  int64_t y, x;  ///< its first pixel in the window
  int64_t height, width;
  int64_t* bins;  ///< (height, width)

  CELLPOST_FN int64_t* at(int64_t row, int64_t col) const {
    const bool inside = row >= y && row < y + height && col >= x && col < x + width;
    return inside ? bins + (row - y) * width + col - x : nullptr;
  }
};

/// Of the points marked in the window only those stay that the region still waits for.
struct KeepPending {
  Region region;
  IndexImage ends;
  int64_t width;
  CELLPOST_FN void operator()(int64_t row, int64_t col) const {
    const int64_t* const bin = region.at(row, col);
    if (bin == nullptr || *bin != kEscaped) ends.set(row * width + col, kNoPoint);
  }
};

struct TakePending {
  Region region;
  IndexImage ends;
  int64_t width;
  CELLPOST_FN void operator()(int64_t row, int64_t col) const {
    int64_t& bin = region.bins[row * region.width + col];
    if (bin == kEscaped) bin = ends.get((row + region.y) * width + col + region.x);
  }
};

/// Smallest boxes that hold the bins in each cell of a grid over the image; a row a cell:
/// low y, low x, high y, high x (exclusive).
struct BoundBins {
  const int64_t* bins;
  int64_t width;  ///< of the rows of bins
  Shape image;
  int64_t side_y, side_x, n_across;
  int64_t* boxes;

  CELLPOST_FN void operator()(int64_t row) const {
    int64_t last = kNoPoint, cell = -1, low[2] = {0, 0}, high[2] = {0, 0};
    const auto flush = [&] {
      if (cell < 0) return;
      for (int k = 0; k < 2; ++k) {
        atomic_min(&boxes[4 * cell + k], low[k]);
        atomic_max(&boxes[4 * cell + 2 + k], high[k] + 1);
      }
    };
    for (int64_t x = 0; x < width; ++x) {
      const int64_t bin = bins[row * width + x];
      if (bin < 0 || bin == last) continue;
      last = bin;
      const int64_t at[2] = {bin / image.x, bin % image.x};
      const int64_t here = at[0] / side_y * n_across + at[1] / side_x;
      if (here != cell) {
        flush();
        cell = here;
        for (int k = 0; k < 2; ++k) low[k] = high[k] = at[k];
      }
      for (int k = 0; k < 2; ++k) {
        if (at[k] < low[k]) low[k] = at[k];
        if (at[k] > high[k]) high[k] = at[k];
      }
    }
    flush();
  }
};

/// Bins of the whole image as bins of a window, kNoPoint outside of it.
struct LocalBins {
  const int64_t* bins;
  int64_t width;  ///< of the rows of bins
  Window window;
  IndexImage ends;

  CELLPOST_FN void operator()(int64_t row) const {
    int64_t last = kNoPoint, local = kNoPoint;
    for (int64_t i = row * width; i < (row + 1) * width; ++i) {
      const int64_t bin = bins[i];
      if (bin != last) {
        last = bin;
        const int64_t y = bin / window.global.x - window.offset[1];
        const int64_t x = bin % window.global.x - window.offset[2];
        local = bin >= 0 && window.shape.contains(0, y, x) ? y * window.shape.x + x : kNoPoint;
      }
      ends.set(i, local);
    }
  }
};

}  // namespace cellpost
