// Numbers as integers of the same order, for atomics and for sorting.
#pragma once

#include "core/host_device.h"

namespace cellpost {

/// Integers in the order of the doubles, for atomics.
CELLPOST_FN int64_t ordered(double v) {
  union {
    double f;
    int64_t i;
  } both{v};
  return both.i >= 0 ? both.i : both.i ^ INT64_MAX;
}
CELLPOST_FN double from_ordered(int64_t i) {
  union {
    int64_t i;
    double f;
  } both{i >= 0 ? i : i ^ INT64_MAX};
  return both.f;
}

CELLPOST_FN double from_ordered(int32_t i) {
  union {
    int32_t i;
    float f;
  } both{i ^ (i >> 31 & INT32_MAX)};
  return static_cast<double>(both.f);
}

}  // namespace cellpost
