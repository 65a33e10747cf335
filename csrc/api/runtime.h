// What this build and this machine can do.
#pragma once

#include <string>
#include <vector>

#include "cuda/runtime.h"

namespace cellpost::api {

struct Info {
  std::string version;
  std::vector<std::string> cpu_levels;  ///< lowest first
  std::string cpu_level;                ///< in use
  int num_threads;
  cuda::State cuda;
};

Info info();
/// 1 to 1024, else std::invalid_argument.
void set_num_threads(int64_t n);
int num_threads();
void set_cpu_level(const std::string& name);

}  // namespace cellpost::api
