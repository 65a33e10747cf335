// From HoVer maps to what a watershed needs (HoVer-Net, Graham et al. 2019): the nuclei's mask, the
// border between nuclei, markers, and energy.
//
// H and V hold each pixel's place in its nucleus, from -1 at the left (top) to +1 at the right
// (bottom). From one nucleus to the next they fall from +1 to -1, so that their derivative has a
// deep valley there: the border is 1 minus the derivative, scaled to [0, 1], the larger of the two.
//
// Two styles, each with the arithmetic of its tool, so that thresholds and order come out the same:
// hovernet  OpenCV's: maps scaled by one float fma, derivatives summed in double, row first, not
//           fused, scaled by one double fma with factors rounded to float; all but the derivative
//           is a multiple of 2^-24, so that the energy, a 3 x 3 binomial mean, is held as an
//           integer.
// monai     PyTorch's: all in float, true divisions, kernels column first and fused.
#pragma once

#include "core/bits.h"
#include "core/ordered.h"
#include "core/watershed.h"

namespace cellpost {

enum class HoverStyle : int { hovernet = 0, monai = 1 };
enum class Activation : int { none = 0, sigmoid = 1, softmax = 2 };

/// A pixel is foreground. Values that are not finite are background.
struct IsNucleus {
  FloatView prob;
  bool two_channels;  ///< background, nucleus
  bool difference;    ///< compare nucleus - background (logits of a softmax) with the limit
  bool argmax;        ///< compare the two channels
  float limit;

  CELLPOST_FN bool operator()(int64_t z, int64_t y, int64_t x) const {
    const float value = prob.at(two_channels ? 1 : 0, z, y, x);
    if (!is_finite(value)) return false;
    if (!difference && !argmax) return value >= limit;
    const float other = prob.at(0, z, y, x);
    if (!is_finite(other)) return false;
    return argmax ? value > other : value - other >= limit;
  }
};

// ---- ranges ------------------------------------------------------------------------------------

/// Smallest and largest value; low > high if there is none.
struct Range {
  double low, high;
};

/// Of the maps, and of their derivatives: H, then V.
struct HoverRanges {
  Range value[2];
  Range gradient[2];
};

/// low[c] and high[c] of the finite values of channel c, as ordered(). One item a row.
struct FindValueRange {
  FloatView hv;
  Shape shape;
  int64_t* low;
  int64_t* high;

  CELLPOST_FN void operator()(int64_t row) const {
    for (int c = 0; c < 2; ++c) {
      if (hv.dtype == DType::f32 && hv.stride[3] == 1) {
        const float* line =
            static_cast<const float*>(hv.data) + c * hv.stride[0] + row * hv.stride[2];
        note(c, [line](int64_t x) { return line[x]; });
      } else {
        note(c, [this, c, row](int64_t x) { return hv.at(c, 0, row, x); });
      }
    }
  }

 private:
  /// In integers of the order of the floats: compilers do not reorder the comparison of floats.
  template <class Get>
  CELLPOST_FN void note(int c, const Get& get) const {
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (int64_t x = 0; x < shape.x; ++x) {
      union {
        float f;
        int32_t i;
      } both{get(x)};
      const int32_t order = both.i ^ (both.i >> 31 & INT32_MAX);
      const bool finite = (both.i & 0x7f800000) != 0x7f800000;
      const int32_t a = finite ? order : INT32_MAX, b = finite ? order : INT32_MIN;
      least = a < least ? a : least;
      most = b > most ? b : most;
    }
    if (least > most) return;
    atomic_min(&low[c], ordered(from_ordered(least)));
    atomic_max(&high[c], ordered(from_ordered(most)));
  }
};

/// Values to [0, 1]. A range of no extent gives 0 everywhere.
struct Rescale {
  HoverStyle style;
  float scale, shift;  ///< hovernet: v * scale + shift
  float low, span;     ///< monai: (v - low) / span

  Rescale() = default;
  CELLPOST_FN Rescale(HoverStyle s, const Range& range) : style(s) {
    const double extent = range.high - range.low;
    scale = static_cast<float>(extent > 2.220446049250313e-16 ? 1.0 / extent : 0.0);
    shift = 0.0f - static_cast<float>(range.low * static_cast<double>(scale));
    low = static_cast<float>(range.low);
    span = static_cast<float>(range.high) - low;
  }

  CELLPOST_FN float value(float v) const {
    if (style == HoverStyle::hovernet) return clamp(fused(v, scale, shift));
    return span > 0.0f ? clamp((v - low) / span) : 0.0f;
  }
  CELLPOST_FN float gradient(double g) const {
    return clamp(
        static_cast<float>(fused(g, static_cast<double>(scale), static_cast<double>(shift))));
  }
  CELLPOST_FN float gradient(float g) const { return span > 0.0f ? clamp((g - low) / span) : 0.0f; }

 private:
  /// Only a range that the caller gives leads out of [0, 1], and one far too narrow this far.
  CELLPOST_FN static float clamp(float v) {
    constexpr float kMost = 1048576.0f;
    return !(v > -kMost) ? -kMost : v < kMost ? v : kMost;
  }
};

// ---- derivatives -------------------------------------------------------------------------------

/// Sobel's kernels of an odd size: binomial coefficients, and their differences.
struct SobelKernels {
  static constexpr int kMostSize = 31;
  int size = 0, radius = 0;
  double smooth[kMostSize] = {}, derive[kMostSize] = {};

  SobelKernels() = default;
  /// MONAI's are scaled to a sum of 1, and to a unit step of the derivative: by powers of 2.
  CELLPOST_FN SobelKernels(HoverStyle style, int ksize) : size(ksize), radius(ksize / 2) {
    double half[kMostSize] = {1.0};  // binomials of size - 2
    for (int n = 1; n < size - 1; ++n) {
      for (int k = n; k > 0; --k) half[k] += half[k - 1];
    }
    double power = 1.0;
    for (int k = 0; k < size - 2; ++k) power *= 0.5;
    const double scale = style == HoverStyle::monai ? power : 1.0;
    for (int k = 0; k < size; ++k) {
      const double here = k < size - 1 ? half[k] : 0.0, before = k > 0 ? half[k - 1] : 0.0;
      smooth[k] = (here + before) * scale * (style == HoverStyle::monai ? 0.5 : 1.0);
      derive[k] = (before - here) * scale;
    }
  }
};

/// Mirrored at the first and last pixel, which are not repeated.
CELLPOST_FN int64_t mirrored(int64_t i, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  i = i % period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

/// Sums of the two styles, at the first of `size` values (or, in the column of hovernet, at the
/// middle one) that are `step` apart.
CELLPOST_FN double sum_row(const double* k, int size, const float* p) {
  double sum = k[0] * static_cast<double>(p[0]);
  for (int j = 1; j < size; ++j) sum += k[j] * static_cast<double>(p[j]);
  return sum;
}
CELLPOST_FN double sum_column(const double* k, int radius, bool is_derivative, const double* p,
                              int64_t step) {
  if (is_derivative) {
    double sum = k[radius + 1] * (p[step] - p[-step]);
    for (int j = 2; j <= radius; ++j) sum += k[radius + j] * (p[j * step] - p[-j * step]);
    return sum;
  }
  double sum = k[radius] * p[0];
  for (int j = 1; j <= radius; ++j) sum += k[radius + j] * (p[j * step] + p[-j * step]);
  return sum;
}
CELLPOST_FN float sum_fused(const double* k, int size, const float* p, int64_t step) {
  float sum = 0.0f;
  for (int j = 0; j < size; ++j) sum = fused(static_cast<float>(k[j]), p[j * step], sum);
  return sum;
}

/// The derivative of H along x, or of V along y, of the maps scaled to [0, 1].
struct HoverGradient {
  HoverStyle style;
  FloatView hv;
  Shape shape;
  SobelKernels kernels;
  Rescale rescale[2];

  /// Pixels that are not finite count as 0.
  CELLPOST_FN float value(int channel, int64_t y, int64_t x) const {
    const float v = hv.at(channel, 0, y, x);
    return rescale[channel].value(is_finite(v) ? v : 0.0f);
  }
  CELLPOST_FN const double* row_kernel(int channel) const {
    return channel == 0 ? kernels.derive : kernels.smooth;
  }
  CELLPOST_FN const double* column_kernel(int channel) const {
    return channel == 0 ? kernels.smooth : kernels.derive;
  }
};

// ---- border, markers, energy -------------------------------------------------------------------

/// The pixels of the mask that are not border.
struct IsMarker {
  BitImage mask;
  const float* border;
  double limit;
  CELLPOST_FN bool operator()(int64_t, int64_t y, int64_t x) const {
    if (!mask.get(y, x)) return false;
    const float b = border[y * mask.width + x];
    return !(static_cast<double>(b > 0.0f ? b : 0.0f) >= limit);
  }
};

/// hovernet: minus the 3 x 3 binomial mean of (1 - border), 0 outside the mask, mirrored at the
/// image border; in units of 2^-28.
struct HovernetEnergy {
  BitImage mask;
  const float* border;

  CELLPOST_FN int64_t units(int64_t y, int64_t x) const {
    int64_t sum = 0;
    for (int64_t dy = -1; dy <= 1; ++dy) {
      const int64_t row = mirrored(y + dy, mask.n_rows);
      const int64_t line = depth(row, mirrored(x - 1, mask.width)) + 2 * depth(row, x) +
                           depth(row, mirrored(x + 1, mask.width));
      sum += dy == 0 ? 2 * line : line;
    }
    return -sum;
  }
  CELLPOST_FN uint64_t level(int64_t, int64_t y, int64_t x) const { return level_of(units(y, x)); }
  CELLPOST_FN double value(int64_t y, int64_t x) const {
    return static_cast<double>(units(y, x)) * 0x1p-28;
  }

 private:
  CELLPOST_FN int64_t depth(int64_t y, int64_t x) const {
    if (!mask.get(y, x)) return 0;
    const float b = border[y * mask.width + x];
    return static_cast<int64_t>((1.0 - static_cast<double>(b > 0.0f ? b : 0.0f)) * 0x1p24);
  }
};

/// monai: minus the Gaussian mean of (1 - border), 0 outside the mask and the image.
struct MonaiEnergy {
  static constexpr int kMostTail = 32;
  BitImage mask;
  const float* border;
  int tail;
  float taps[2 * kMostTail + 1];

  CELLPOST_FN float mean(int64_t y, int64_t x) const {
    float sum = 0.0f;
    for (int dx = -tail; dx <= tail; ++dx) {
      float column = 0.0f;
      if (x + dx >= 0 && x + dx < mask.width) {
        for (int dy = -tail; dy <= tail; ++dy) {
          if (y + dy < 0 || y + dy >= mask.n_rows) continue;
          column = fused(taps[dy + tail], depth(y + dy, x + dx), column);
        }
      }
      sum = fused(taps[dx + tail], column, sum);
    }
    return sum;
  }
  CELLPOST_FN uint64_t level(int64_t, int64_t y, int64_t x) const { return level_of(value(y, x)); }
  CELLPOST_FN double value(int64_t y, int64_t x) const { return -static_cast<double>(mean(y, x)); }

 private:
  CELLPOST_FN float depth(int64_t y, int64_t x) const {
    if (!mask.get(y, x)) return 0.0f;
    const float b = border[y * mask.width + x];
    return 1.0f - (b > 0.0f ? b : 0.0f);
  }
};

template <class Energy>
struct WriteEnergy {
  Energy energy;
  double* out;
  CELLPOST_FN void operator()(int64_t y, int64_t x) const {
    out[y * energy.mask.width + x] = energy.value(y, x);
  }
};

}  // namespace cellpost
