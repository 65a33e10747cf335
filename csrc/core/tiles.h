// Blending of overlapping tiles into one map.
//
// A pixel of the map is the weighted mean of the tiles that cover it:
//   sum over tiles of double(weight) * value, divided by the sum of double(weight),
// both in the order of the tiles in the grid, whatever order they came in. Sums are of double: a
// product of two float32 is exact, so that a constant stays the constant, and the rounding to
// float32 comes last. The map is made pixel by pixel from all of its tiles (and not tile by tile,
// which reads and writes it again for each of them), so a part of it can be made by itself.
//
// Axes are named 0, 1, 2; an image (H, W) has a middle axis of one pixel and one tile. Axis 0 is
// the one along which parts of the map are made.
#pragma once

#include "core/atomic.h"
#include "core/image.h"

namespace cellpost {

/// The tiles along one axis. Those that cover a pixel follow each other.
struct TileAxis {
  int64_t n;             ///< tiles
  int64_t side;          ///< of a tile, in pixels
  const int64_t* start;  ///< first pixel of each tile, ascending; may lie outside the image
  const int64_t* begin;  ///< first pixel that the tile contributes to, and the end of these
  const int64_t* end;
  const float* weight;  ///< of each of the tile's `side` pixels

  /// The first tile that ends after `pixel`: all before it have ended.
  CELLPOST_FN int64_t first_at(int64_t pixel) const {
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (end[middle] > pixel) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
  CELLPOST_FN bool covers(int64_t tile, int64_t pixel) const {
    return tile < n && begin[tile] <= pixel;
  }
};

/// Some rows of a map, made of all tiles that cover them.
struct TileBlend {
  TileAxis axis[3];
  const float* window;  ///< weights (side 0, side 1, side 2) in place of those of the axes; or null
  float floor;          ///< smallest weight, where it is a product of the axes'

  int64_t channels;
  DType dtype;               ///< of the tiles
  const void* const* tiles;  ///< (channels, side 0, side 1, side 2) each, in the grid's order
  int64_t first_layer;       ///< place along axis 0 of the first of them

  void* out;           ///< (channels, rows, size 1, size 2)
  DType out_dtype;     ///< f64 if `dtype` is that, else f32, f16 or bf16
  int64_t stride[3];   ///< of channels, rows and axis 1 of `out`, in elements
  int64_t first_row;   ///< of the map, that is the first of `out`
  int64_t size[3];     ///< rows of `out`, then the map's sizes along axes 1 and 2
  int64_t* first_nan;  ///< lowest linear index (channel, row, 1, 2) of a NaN that was written

  CELLPOST_FN int64_t volume() const { return axis[0].side * axis[1].side * axis[2].side; }
  CELLPOST_FN int64_t lines() const { return size[0] * size[1]; }
};

/// One tile that a line of the map (all pixels along axis 2) meets.
struct TileLine {
  const void* values;    ///< channel 0, at the tile's first pixel on the line
  const float* weights;  ///< by pixel
  float scale, floor;    ///< the weight is max(scale * weights[x], floor)

  CELLPOST_FN float weight(int64_t x) const {
    const float w = scale * weights[x];
    return w > floor ? w : floor;
  }
};

CELLPOST_FN TileLine tile_line(const TileBlend& job, int64_t row, int64_t mid, int64_t k0,
                               int64_t k1, int64_t k2) {
  const TileAxis &a0 = job.axis[0], &a1 = job.axis[1], &a2 = job.axis[2];
  const int64_t y0 = row - a0.start[k0], y1 = mid - a1.start[k1];
  const int64_t line = y0 * a1.side + y1;
  const auto* const tile =
      static_cast<const char*>(job.tiles[((k0 - job.first_layer) * a1.n + k1) * a2.n + k2]);
  TileLine out;
  out.values = tile + line * a2.side * item_size(job.dtype);
  if (job.window != nullptr) {
    out.weights = job.window + line * a2.side;
    out.scale = 1.0f;
    out.floor = 0.0f;
  } else {
    out.weights = a2.weight;
    out.scale = a0.weight[y0] * a1.weight[y1];
    out.floor = job.floor;
  }
  return out;
}

/// Reads and writes values of one type.
template <DType D>
struct TileValue;
template <>
struct TileValue<DType::f32> {
  static CELLPOST_FN double get(const void* p, int64_t i) {
    return static_cast<double>(static_cast<const float*>(p)[i]);
  }
};
template <>
struct TileValue<DType::f64> {
  static CELLPOST_FN double get(const void* p, int64_t i) {
    return static_cast<const double*>(p)[i];
  }
};
template <>
struct TileValue<DType::f16> {
  static CELLPOST_FN double get(const void* p, int64_t i) {
    return static_cast<double>(half_to_float(static_cast<const uint16_t*>(p)[i]));
  }
};
template <>
struct TileValue<DType::bf16> {
  static CELLPOST_FN double get(const void* p, int64_t i) {
    return static_cast<double>(
        bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(p)[i]) << 16));
  }
};

/// Writes a mean, rounded to float32 and from there to what is narrower; notes a NaN.
CELLPOST_FN void put_mean(const TileBlend& job, int64_t channel, int64_t line, int64_t x,
                          double mean) {
  const int64_t row = line / job.size[1], mid = line % job.size[1];
  const int64_t at = channel * job.stride[0] + row * job.stride[1] + mid * job.stride[2] + x;
  const auto narrow = static_cast<float>(mean);
  switch (job.out_dtype) {
    case DType::f64:
      static_cast<double*>(job.out)[at] = mean;
      break;
    case DType::f16:
      static_cast<uint16_t*>(job.out)[at] = float_to_half(narrow);
      break;
    case DType::bf16:
      static_cast<uint16_t*>(job.out)[at] = float_to_bfloat(narrow);
      break;
    default:
      static_cast<float*>(job.out)[at] = narrow;
  }
  if (mean != mean) {
    atomic_min(job.first_nan, (channel * job.lines() + line) * job.size[2] + x);
  }
}

/// The rule by itself: all channels of one pixel, kChannels of them at a time.
template <DType D>
struct BlendPixel {
  static constexpr int kChannels = 4;
  TileBlend job;

  CELLPOST_FN void operator()(int64_t line, int64_t x) const {
    const TileAxis &a0 = job.axis[0], &a1 = job.axis[1], &a2 = job.axis[2];
    const int64_t row = job.first_row + line / job.size[1], mid = line % job.size[1];
    const int64_t from0 = a0.first_at(row), from1 = a1.first_at(mid), from2 = a2.first_at(x);
    const int64_t volume = job.volume();
    for (int64_t c = 0; c < job.channels; c += kChannels) {
      const int n = static_cast<int>(job.channels - c < kChannels ? job.channels - c : kChannels);
      double sum[kChannels] = {}, weights = 0.0;
      for (int64_t k0 = from0; a0.covers(k0, row); ++k0) {
        for (int64_t k1 = from1; a1.covers(k1, mid); ++k1) {
          for (int64_t k2 = from2; a2.covers(k2, x); ++k2) {
            const TileLine tile = tile_line(job, row, mid, k0, k1, k2);
            const int64_t at = x - a2.start[k2];
            const auto w = static_cast<double>(tile.weight(at));
            weights += w;
            CELLPOST_UNROLL
            for (int i = 0; i < kChannels; ++i) {
              if (i < n) sum[i] += w * TileValue<D>::get(tile.values, (c + i) * volume + at);
            }
          }
        }
      }
      const double share = 1.0 / weights;
      CELLPOST_UNROLL
      for (int i = 0; i < kChannels; ++i) {
        if (i < n) put_mean(job, c + i, line, x, sum[i] * share);
      }
    }
  }
};

/// The same by the pixel's linear index.
template <DType D>
struct BlendLinear {
  BlendPixel<D> blend;
  CELLPOST_FN void operator()(int64_t i) const {
    blend(i / blend.job.size[2], i % blend.job.size[2]);
  }
};

}  // namespace cellpost
