// What the C++ contract takes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/place.h"

namespace cellpost::api {

/// An n-dimensional array of the caller's, not owned. Strides are in elements.
struct Array {
  std::string name;  ///< of the argument, for messages
  void* data = nullptr;
  std::string dtype;  ///< as NumPy names it; "bfloat16" and "other" besides
  std::vector<int64_t> shape, stride;
  Place place;
};

}  // namespace cellpost::api
