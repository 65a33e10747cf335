#include <atomic>
#include <stdexcept>

#include "cpu/kernels.h"

namespace cellpost::cpu {
namespace {

std::vector<Kernels> find_available() {
  std::vector<Kernels> all{{"baseline", baseline::trace_kernels(), baseline::diffusion_kernels(),
                            baseline::watershed_kernels()}};
#if CELLPOST_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all.push_back(
        {"avx2", avx2::trace_kernels(), avx2::diffusion_kernels(), avx2::watershed_kernels()});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      all.push_back({"avx512", avx512::trace_kernels(), avx512::diffusion_kernels(),
                     avx512::watershed_kernels()});
    }
  }
#endif
  return all;
}

const std::vector<Kernels>& available() {
  static const std::vector<Kernels> all = find_available();
  return all;
}

std::atomic<const Kernels*>& in_use() {
  static std::atomic<const Kernels*> now{&available().back()};
  return now;
}

}  // namespace

const Kernels& kernels() { return *in_use().load(); }

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Kernels& k : available()) names.emplace_back(k.level);
  return names;
}

void set_level(const std::string& name) {
  if (name.empty()) {
    in_use() = &available().back();
    return;
  }
  for (const Kernels& k : available()) {
    if (name == k.level) {
      in_use() = &k;
      return;
    }
  }
  std::string all;
  for (const std::string& level : levels()) all += (all.empty() ? "" : ", ") + level;
  throw std::invalid_argument("level: expected one of " + all + "; got " + name);
}

}  // namespace cellpost::cpu
