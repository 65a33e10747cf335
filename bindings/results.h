// What calls give back, as Python objects.
#pragma once

#include <pybind11/pybind11.h>

#include "pipeline/labels.h"

namespace cellpost::bindings {

/// Runs a call that touches no Python object, so that other Python threads can run.
template <class Call>
auto without_gil(const Call& call) {
  const pybind11::gil_scoped_release release;
  return call();
}

inline int64_t to_python(int64_t n) { return n; }

inline pybind11::dict to_python(const FilterReport& report) {
  pybind11::dict out;
  out["n_before"] = report.n_before;
  out["n_removed"] = report.n_removed;
  out["n_pixels"] = report.n_pixels;
  return out;
}

}  // namespace cellpost::bindings
