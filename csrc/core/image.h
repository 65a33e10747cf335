// Shapes, strided float inputs and index images. Every image is (z, y, x); 2D has one plane.
#pragma once

#include "core/host_device.h"

namespace cellpost {

/// Size of an image. Pixel indices are linear, 64-bit, in raster order.
struct Shape {
  int64_t z, y, x;
  int ndim;  ///< 2 or 3; with 2, z is 1

  CELLPOST_FN int64_t pixels() const { return z * y * x; }
  CELLPOST_FN int64_t rows() const { return z * y; }
  CELLPOST_FN bool contains(int64_t zz, int64_t yy, int64_t xx) const {
    return zz >= 0 && zz < z && yy >= 0 && yy < y && xx >= 0 && xx < x;
  }
};

/// A part of a larger image: what a stage holds in memory, and where it lies.
/// The in-memory call is the case offset 0, shape == global.
struct Window {
  Shape shape;        ///< extent of the part
  int64_t offset[3];  ///< z, y, x of its first pixel in the whole image
  Shape global;       ///< extent of the whole image
};

CELLPOST_FN Window whole(const Shape& shape) { return Window{shape, {0, 0, 0}, shape}; }

enum class DType : int { f16, bf16, f32, f64, u8 };

/// Bytes.
CELLPOST_FN int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    case DType::u8:
      return 1;
    default:
      return 2;
  }
}

CELLPOST_FN float bits_to_float(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } both{bits};
  return both.f;
}

/// IEEE half to single, exact, subnormals included.
CELLPOST_FN float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Scaling by 2^112 re-biases the exponent and normalises subnormals in one exact multiplication.
  const float scaled = bits_to_float(rest << 13) * bits_to_float(0x77800000u);
  return sign ? -scaled : scaled;
}

CELLPOST_FN uint32_t float_to_bits(float value) {
  union {
    float f;
    uint32_t u;
  } both{value};
  return both.u;
}

/// To the nearest half, of two the even one; beyond the largest, infinity; NaN stays one.
CELLPOST_FN uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u,
                 rest = bits & 0x7fffffffu;
  uint32_t out;
  if (rest > 0x7f800000u) {
    out = 0x7e00u;
  } else if (rest >= 0x47800000u) {  // 2^16; what rounds up to it is carried into the exponent
    out = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: the sum's last bit is worth 2^-24
    out = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000u;
  } else {
    out = (rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(sign | out);
}

/// The upper half of the bits, rounded in the same way.
CELLPOST_FN uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

CELLPOST_FN bool is_finite(float v) { return v - v == 0.0f; }

/// A float map of the caller, read where it lies: any dtype, any strides (in elements).
/// Values are read as float32.
struct FloatView {
  const void* data;
  DType dtype;
  int64_t stride[4];  ///< channel, z, y, x

  CELLPOST_FN float at(int64_t c, int64_t z, int64_t y, int64_t x) const {
    const int64_t i = c * stride[0] + z * stride[1] + y * stride[2] + x * stride[3];
    switch (dtype) {
      case DType::f32:
        return static_cast<const float*>(data)[i];
      case DType::f16:
        return half_to_float(static_cast<const uint16_t*>(data)[i]);
      case DType::bf16:
        return bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
      case DType::u8:
        return static_cast<float>(static_cast<const uint8_t*>(data)[i]);
      default:
        return static_cast<float>(static_cast<const double*>(data)[i]);
    }
  }
  /// The value as it is, for sums.
  CELLPOST_FN double exact(int64_t c, int64_t z, int64_t y, int64_t x) const {
    if (dtype != DType::f64) return static_cast<double>(at(c, z, y, x));
    return static_cast<const double*>(
        data)[c * stride[0] + z * stride[1] + y * stride[2] + x * stride[3]];
  }
};

/// A FloatView whose dtype is known to be float32: the usual case, without the switch.
struct Float32View {
  const float* data;
  int64_t stride[4];

  CELLPOST_FN float at(int64_t c, int64_t z, int64_t y, int64_t x) const {
    return data[c * stride[0] + z * stride[1] + y * stride[2] + x * stride[3]];
  }
};

/// A mask of the caller, one byte a pixel, any strides.
struct MaskView {
  const uint8_t* data;
  int64_t stride[3];  ///< z, y, x

  CELLPOST_FN bool inside(int64_t z, int64_t y, int64_t x) const {
    return data[z * stride[0] + y * stride[1] + x * stride[2]] != 0;
  }
};

/// One integer per pixel, 32 bits wide where the image has fewer than 2^31 pixels, else 64.
struct IndexImage {
  int32_t* narrow;
  int64_t* wide;

  CELLPOST_FN int64_t get(int64_t i) const { return narrow ? narrow[i] : wide[i]; }
  CELLPOST_FN void set(int64_t i, int64_t v) const {
    if (narrow) {
      narrow[i] = static_cast<int32_t>(v);
    } else {
      wide[i] = v;
    }
  }
};

CELLPOST_FN bool needs_wide_index(int64_t n_pixels) { return n_pixels >= (int64_t{1} << 31); }

}  // namespace cellpost
