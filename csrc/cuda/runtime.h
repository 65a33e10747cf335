// Whether CUDA can be used, asked without needing a driver.
#pragma once

#include <string>
#include <vector>

namespace cellpost::cuda {

struct State {
  bool built = false;
  bool usable = false;
  std::string reason;                ///< why not, empty if usable
  std::vector<std::string> devices;  ///< "NVIDIA H200 (sm_90, 141 GB)"
};

State state();

}  // namespace cellpost::cuda
