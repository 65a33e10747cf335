#include "api/check.h"

#include <stdexcept>

namespace cellpost::api {
namespace {

constexpr int64_t kLongestAxis = int64_t{1} << 23;

std::vector<int64_t> extents(const Shape& s) {
  return s.ndim == 2 ? std::vector<int64_t>{s.y, s.x} : std::vector<int64_t>{s.z, s.y, s.x};
}

DType float_dtype(const Array& a) {
  if (a.dtype == "float32") return DType::f32;
  if (a.dtype == "float16") return DType::f16;
  if (a.dtype == "float64") return DType::f64;
  if (a.dtype == "bfloat16") return DType::bf16;
  reject_dtype(a.name, "float16, bfloat16, float32 or float64", a.dtype);
}

/// Strides of (channel, z, y, x), 0 for an axis that is not there.
struct Strides {
  int64_t of[4] = {0, 0, 0, 0};
  Strides(const Array& a, bool has_channels) {
    const size_t n_leading = has_channels ? 1 : 0;
    if (has_channels) of[0] = a.stride[0];
    for (size_t k = n_leading; k < a.stride.size(); ++k) of[4 - a.stride.size() + k] = a.stride[k];
  }
};

}  // namespace

FloatView float_view(const Array& a, bool has_channels) {
  const Strides s(a, has_channels);
  return {a.data, float_dtype(a), {s.of[0], s.of[1], s.of[2], s.of[3]}};
}

void reject_dtype(const std::string& argument, const std::string& expected,
                  const std::string& got) {
  throw WrongType(argument + ": expected " + expected + "; got " + got);
}

void reject(const std::string& argument, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(argument + ": expected " + expected + "; got " + got);
}

std::string text(const std::vector<int64_t>& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

Shape image_shape(const Array& image) {
  const auto& s = image.shape;
  if (s.size() != 2 && s.size() != 3) {
    reject(image.name, "2 axes (H, W) or 3 axes (D, H, W)", "shape " + text(s));
  }
  for (const int64_t n : s) {
    if (n > kLongestAxis) reject(image.name, "axes of at most 2^23 pixels", "shape " + text(s));
  }
  if (s.size() == 2) return {1, s[0], s[1], 2};
  if ((s[0] + 2) * (s[1] + 2) > INT32_MAX) {  // rows are counted in 32 bits, border included
    reject(image.name, "fewer than 2^31 rows in all", "shape " + text(s));
  }
  return {s[0], s[1], s[2], 3};
}

FloatView flow_view(const Array& dP, const Shape& shape) {
  std::vector<int64_t> expected = extents(shape);
  expected.insert(expected.begin(), shape.ndim);
  if (dP.shape != expected) {
    reject(dP.name, "shape " + text(expected) + " (flow components first)",
           "shape " + text(dP.shape));
  }
  return float_view(dP, true);
}

std::array<int64_t, 3> plane_strides(const Array& a, const Shape& shape) {
  if (a.shape != extents(shape)) {
    reject(a.name, "shape " + text(extents(shape)), "shape " + text(a.shape));
  }
  const Strides s(a, false);
  return {s.of[1], s.of[2], s.of[3]};
}

FloatView map_view(const Array& map, const Shape& shape) {
  if (map.shape != extents(shape)) {
    reject(map.name, "shape " + text(extents(shape)), "shape " + text(map.shape));
  }
  return float_view(map, false);
}

MaskView mask_view(const Array& mask, const Shape& shape) {
  if (mask.dtype != "bool") reject_dtype(mask.name, "bool", mask.dtype);
  const auto strides = plane_strides(mask, shape);
  return {static_cast<const uint8_t*>(mask.data), {strides[0], strides[1], strides[2]}};
}

FloatView points_view(const Array& points, const Shape& shape, int64_t n) {
  const std::vector<int64_t> expected{shape.ndim, n};
  if (points.shape != expected) {
    reject(points.name, "shape " + text(expected) + " (one column for each pixel of the mask)",
           "shape " + text(points.shape));
  }
  return float_view(points, true);
}

void* output(const Array& out, const char* dtype, const std::vector<int64_t>& shape) {
  if (out.dtype != dtype) reject_dtype(out.name, dtype, out.dtype);
  if (out.shape != shape) reject(out.name, "shape " + text(shape), "shape " + text(out.shape));
  int64_t step = 1;
  for (const int64_t n : shape) {
    if (n == 0) return out.data;
  }
  for (size_t k = shape.size(); k-- > 0;) {
    if (shape[k] > 1 && out.stride[k] != step) reject(out.name, "a C-contiguous array", "strides");
    step *= shape[k];
  }
  return out.data;
}

int32_t* labels_in_place(const Array& labels, Shape* shape) {
  *shape = image_shape(labels);
  return static_cast<int32_t*>(output(labels, "int32", labels.shape));
}

void same_place(const Array& a, const Array& b) {
  if (!(a.place == b.place)) {
    reject(b.name, "the device of " + a.name + ", " + a.place.name(), b.place.name());
  }
}

}  // namespace cellpost::api
