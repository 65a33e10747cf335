#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <algorithm>

namespace cellpost::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Oldest architecture that there is code for, as 10 * major + minor.
int oldest_architecture() {
  const int built_for[] = {__CUDA_ARCH_LIST__};
  return *std::min_element(std::begin(built_for), std::end(built_for)) / 10;
}

std::string why_not(cudaError_t status) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) return "no NVIDIA driver was found";
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is too old: it serves CUDA up to " + version_text(driver) +
           ", and this build of cellpost needs " + version_text(CUDART_VERSION);
  }
  return std::string("no CUDA device can be used: ") + cudaGetErrorString(status);
}

}  // namespace

State state() {
  State state;
  state.built = true;
  int n_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&n_devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    state.reason = why_not(status);
    return state;
  }
  state.reason = "there is no CUDA device";
  for (int i = 0; i < n_devices; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    const int architecture = 10 * p.major + p.minor;
    state.devices.push_back(std::string(p.name) + " (sm_" + std::to_string(architecture) + ", " +
                            std::to_string(p.totalGlobalMem / 1000000000) + " GB)");
    if (architecture < oldest_architecture()) {
      if (!state.usable) {
        state.reason = std::string(p.name) + " is sm_" + std::to_string(architecture) +
                       ", and this build of cellpost has code for sm_" +
                       std::to_string(oldest_architecture()) + " and later";
      }
      continue;
    }
    state.usable = true;
    state.reason.clear();
  }
  return state;
}

}  // namespace cellpost::cuda
