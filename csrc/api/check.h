// Turns arguments into views, or throws std::invalid_argument that names the argument, what was
// expected and what came.
#pragma once

#include <array>
#include <stdexcept>

#include "api/array.h"
#include "core/image.h"

namespace cellpost::api {

/// An argument of a wrong dtype: Python's TypeError.
struct WrongType : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

[[noreturn]] void reject_dtype(const std::string& argument, const std::string& expected,
                               const std::string& got);
[[noreturn]] void reject(const std::string& argument, const std::string& expected,
                         const std::string& got);
/// "(2, 512, 512)"
std::string text(const std::vector<int64_t>& shape);

/// Shape of an image or volume of 2 or 3 axes, none longer than 2^23 (beyond, float32 has no
/// place between two pixels), and of fewer than 2^31 rows.
Shape image_shape(const Array& image);

/// Flow field of the shape (ndim, ...) that goes with an image of `shape`.
FloatView flow_view(const Array& dP, const Shape& shape);
/// Float map, or bool mask, of exactly `shape`.
FloatView map_view(const Array& map, const Shape& shape);
MaskView mask_view(const Array& mask, const Shape& shape);
/// Map of any shape, its leading axis channels or not.
FloatView float_view(const Array& a, bool has_channels);
/// Strides of (z, y, x), 0 for an axis that is not there, of an array of exactly `shape`.
std::array<int64_t, 3> plane_strides(const Array& a, const Shape& shape);
/// End points (ndim, n).
FloatView points_view(const Array& points, const Shape& shape, int64_t n);

/// Contiguous array of one dtype that the library itself allocated.
void* output(const Array& out, const char* dtype, const std::vector<int64_t>& shape);
int32_t* labels_in_place(const Array& labels, Shape* shape);

void same_place(const Array& a, const Array& b);

}  // namespace cellpost::api
