// Where a call runs.
#pragma once

#include <string>

namespace cellpost {

/// The CPU, or a CUDA device in the order of a stream.
struct Place {
  bool cuda = false;
  int device = 0;
  void* stream = nullptr;

  bool operator==(const Place& other) const {
    return cuda == other.cuda && (!cuda || device == other.device);
  }
  std::string name() const { return cuda ? "cuda:" + std::to_string(device) : "cpu"; }
};

}  // namespace cellpost
