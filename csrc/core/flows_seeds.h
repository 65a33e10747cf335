// From end bins to labels: histogram peaks become seeds, seeds grow, pixels take their bin's label.
//
// A bin is a seed where more than 10 points ended and no bin of its 5 x 5 (x 5) neighbourhood holds
// more. A seed grows five times by a 3 x 3 (x 3) dilation inside its 11 x 11 (x 11) surroundings
// over bins with more than 2 points. Where seeds overlap, the one with the larger (count, linear
// index) wins: seeds are ranked by it, and the rank is written with an integer maximum.
#pragma once

#include "core/atomic.h"
#include "core/image.h"

namespace cellpost {

constexpr int32_t kSeedAbove = 10;
constexpr int32_t kGrowAbove = 2;
constexpr int kPeakRadius = 2;
constexpr int kGrowRadius = 5;
constexpr int kGrowSteps = 5;

struct IsSeed {
  const int32_t* counts;
  Shape shape;

  CELLPOST_FN bool operator()(int64_t bin) const {
    const int32_t peak = counts[bin];
    if (peak <= kSeedAbove) return false;
    const int64_t x = bin % shape.x, row = bin / shape.x;
    const int64_t y = row % shape.y, z = row / shape.y;
    const int rz = shape.ndim == 3 ? kPeakRadius : 0;
    for (int64_t dz = -rz; dz <= rz; ++dz) {
      for (int64_t dy = -kPeakRadius; dy <= kPeakRadius; ++dy) {
        for (int64_t dx = -kPeakRadius; dx <= kPeakRadius; ++dx) {
          if (shape.contains(z + dz, y + dy, x + dx) &&
              counts[bin + (dz * shape.y + dy) * shape.x + dx] > peak) {
            return false;
          }
        }
      }
    }
    return true;
  }
};

struct GatherPeak {
  const int32_t* counts;
  const int64_t* seeds;
  int32_t* peak;
  CELLPOST_FN void operator()(int64_t i) const { peak[i] = counts[seeds[i]]; }
};

/// Grows seed `rank` and writes rank + 1 into the bins it reaches, keeping the largest.
template <int N>
struct GrowSeed {
  const int64_t* seeds;  ///< bins, ascending by (count, bin)
  const int32_t* counts;
  Shape shape;
  int32_t* label_of_bin;

  CELLPOST_FN void operator()(int64_t rank) const {
    constexpr int kSide = 2 * kGrowRadius + 1;
    constexpr int kPlanes = N == 3 ? kSide : 1;
    constexpr int kCentrePlane = N == 3 ? kGrowRadius : 0;
    uint16_t open[kPlanes * kSide], grown[kPlanes * kSide], wide[kPlanes * kSide];
    const int64_t bin = seeds[rank];
    const int64_t x = bin % shape.x, row = bin / shape.x;
    const int64_t y = row % shape.y, z = row / shape.y;
    for (int p = 0; p < kPlanes; ++p) {
      for (int r = 0; r < kSide; ++r) {
        const int64_t zz = z + p - kCentrePlane, yy = y + r - kGrowRadius;
        unsigned bits = 0;
        for (int c = 0; c < kSide; ++c) {
          const int64_t xx = x + c - kGrowRadius;
          if (shape.contains(zz, yy, xx) &&
              counts[(zz * shape.y + yy) * shape.x + xx] > kGrowAbove) {
            bits |= 1u << c;
          }
        }
        open[p * kSide + r] = static_cast<uint16_t>(bits);
        grown[p * kSide + r] = 0;
      }
    }
    grown[kCentrePlane * kSide + kGrowRadius] = 1u << kGrowRadius;
    for (int step = 0; step < kGrowSteps; ++step) {
      for (int i = 0; i < kPlanes * kSide; ++i) {
        const unsigned g = grown[i];
        wide[i] = static_cast<uint16_t>(g | g << 1 | g >> 1);
      }
      for (int p = 0; p < kPlanes; ++p) {
        for (int r = 0; r < kSide; ++r) {
          unsigned bits = 0;
          for (int pp = p > 0 ? p - 1 : 0; pp <= p + 1 && pp < kPlanes; ++pp) {
            for (int rr = r > 0 ? r - 1 : 0; rr <= r + 1 && rr < kSide; ++rr) {
              bits |= wide[pp * kSide + rr];
            }
          }
          grown[p * kSide + r] = static_cast<uint16_t>(bits & open[p * kSide + r]);
        }
      }
    }
    for (int p = 0; p < kPlanes; ++p) {
      for (int r = 0; r < kSide; ++r) {
        const int64_t zz = z + p - kCentrePlane, yy = y + r - kGrowRadius;
        for (int c = 0; c < kSide; ++c) {
          if (grown[p * kSide + r] >> c & 1u) {
            atomic_max(&label_of_bin[(zz * shape.y + yy) * shape.x + x + c - kGrowRadius],
                       static_cast<int32_t>(rank + 1));
          }
        }
      }
    }
  }
};

/// labels[pixel] = label of the bin where the pixel ended, 0 for background.
struct AssignLabel {
  IndexImage ends;
  const int32_t* label_of_bin;
  int32_t* labels;

  CELLPOST_FN void operator()(int64_t pixel) const {
    const int64_t bin = ends.get(pixel);
    labels[pixel] = bin < 0 ? 0 : label_of_bin[bin];
  }
};

/// Bins of end positions that were saved: truncated, clamped into the image; NaN goes to bin 0.
struct BinOfPoint {
  FloatView points;  ///< (N, n) float, rows z, y, x
  Shape shape;
  IndexImage ends;  ///< holds the point index at foreground pixels, kNoPoint elsewhere

  CELLPOST_FN void operator()(int64_t pixel) const {
    const int64_t i = ends.get(pixel);
    if (i < 0) return;
    const int64_t extent[3] = {shape.z, shape.y, shape.x};
    int64_t bin = 0;
    for (int k = 3 - shape.ndim; k < 3; ++k) {
      const float p = points.at(k - (3 - shape.ndim), 0, 0, i);
      const float last = static_cast<float>(extent[k] - 1);
      bin = bin * extent[k] + (!(p > 0.0f) ? 0
                               : p > last  ? extent[k] - 1
                                           : static_cast<int64_t>(p));
    }
    ends.set(pixel, bin);
  }
};

}  // namespace cellpost
