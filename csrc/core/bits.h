// Binary images, one bit a pixel, and the morphology on them: 64 pixels an operation.
#pragma once

#include "core/image.h"

namespace cellpost {

/// Rows (z and y together) begin at a word; bit b of word w is pixel 64 w + b. The bits beyond the
/// width are 0.
struct BitImage {
  uint64_t* words;
  int64_t n_rows, width, n_words;  ///< n_words: of a row

  CELLPOST_FN uint64_t word(int64_t row, int64_t w) const { return words[row * n_words + w]; }
  CELLPOST_FN bool get(int64_t row, int64_t x) const {
    return (word(row, x >> 6) >> (x & 63) & 1u) != 0;
  }
  /// The bits of word w that are pixels.
  CELLPOST_FN uint64_t valid(int64_t w) const {
    return w + 1 < n_words || (width & 63) == 0 ? ~uint64_t{0} : ~(~uint64_t{0} << (width & 63));
  }
  /// Pixels 64 w + shift and the 63 after it, |shift| < 64; those outside the row are `outside`
  /// (all bits 0 or 1).
  CELLPOST_FN uint64_t shifted(int64_t row, int64_t w, int shift, uint64_t outside) const {
    const uint64_t here = padded(row, w, outside);
    if (shift == 0) return here;
    if (shift > 0) return here >> shift | padded(row, w + 1, outside) << (64 - shift);
    return here << -shift | padded(row, w - 1, outside) >> (64 + shift);
  }

 private:
  CELLPOST_FN uint64_t padded(int64_t row, int64_t w, uint64_t outside) const {
    if (w < 0 || w >= n_words) return outside;
    return word(row, w) | (outside & ~valid(w));
  }
};

CELLPOST_FN int64_t words_of_row(int64_t width) { return (width + 63) / 64; }

CELLPOST_FN int count_bits(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}

/// Index of the lowest bit that is set; there must be one.
CELLPOST_FN int lowest_bit(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(bits)) - 1;
#else
  return __builtin_ctzll(bits);
#endif
}

/// Sets the bits of the pixels for which test(z, y, x) is true.
template <class Test>
struct PackBits {
  Test test;
  Shape shape;
  BitImage bits;

  CELLPOST_FN void operator()(int64_t row, int64_t w) const {
    const int64_t z = row / shape.y, y = row % shape.y, first = 64 * w;
    const int64_t n = shape.x - first < 64 ? shape.x - first : 64;
    uint64_t word = 0;
    for (int64_t b = 0; b < n; ++b) {
      word |= static_cast<uint64_t>(test(z, y, first + b)) << b;
    }
    bits.words[row * bits.n_words + w] = word;
  }
};

struct IsInside {
  MaskView mask;
  CELLPOST_FN bool operator()(int64_t z, int64_t y, int64_t x) const {
    return mask.inside(z, y, x);
  }
};

/// Writes one byte a pixel.
struct UnpackBits {
  BitImage bits;
  uint8_t* out;

  CELLPOST_FN void operator()(int64_t row, int64_t w) const {
    const uint64_t word = bits.word(row, w);
    const int64_t first = 64 * w;
    const int64_t n = bits.width - first < 64 ? bits.width - first : 64;
    for (int64_t b = 0; b < n; ++b) out[row * bits.width + first + b] = word >> b & 1u;
  }
};

/// A footprint that is symmetric and convex: row dy has the pixels from -half_width[|dy|] on to
/// +half_width[|dy|].
struct Footprint {
  static constexpr int kMostRadius = 31;
  int radius = 0;
  int half_width[kMostRadius + 1] = {};
};

/// Erosion of a 2D image (all pixels of the footprint are set; those outside the image count as
/// set) or dilation (any is set).
template <bool kErode>
struct Morph {
  Footprint footprint;
  BitImage from, to;

  CELLPOST_FN void operator()(int64_t row, int64_t w) const {
    constexpr uint64_t kNeutral = kErode ? ~uint64_t{0} : 0;
    uint64_t word = kNeutral;
    for (int dy = -footprint.radius; dy <= footprint.radius; ++dy) {
      if (row + dy < 0 || row + dy >= from.n_rows) continue;
      const int half = footprint.half_width[dy < 0 ? -dy : dy];
      for (int dx = -half; dx <= half; ++dx) {
        const uint64_t other = from.shifted(row + dy, w, dx, kNeutral);
        word = kErode ? word & other : word | other;
      }
    }
    to.words[row * to.n_words + w] = word & to.valid(w);
  }
};

}  // namespace cellpost
