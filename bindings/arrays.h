// Arrays of the caller's, seen without a copy: NumPy by its own interface, the rest by DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include "api/array.h"

namespace cellpost::bindings {

/// Keeps the array's memory alive and known while a call runs.
class HeldArray {
 public:
  /// `stream` is the caller's CUDA stream; it has no meaning for arrays on the CPU.
  HeldArray(pybind11::handle array, const char* name, intptr_t stream);
  const api::Array& get() const { return array_; }

 private:
  api::Array array_;
  pybind11::object owner_;
};

}  // namespace cellpost::bindings
