#include <atomic>
#include <stdexcept>

#include "cpu/kernels.h"

namespace cellpost::cpu {
namespace {

#define CELLPOST_KERNELS(level)                                                             \
  Kernels {                                                                                 \
    #level, level::trace_kernels(), level::diffusion_kernels(), level::watershed_kernels(), \
        level::paste_kernels(), level::label_kernels(), level::tile_kernels()               \
  }

std::vector<Kernels> find_available() {
  std::vector<Kernels> all{CELLPOST_KERNELS(baseline)};
#if CELLPOST_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all.push_back(CELLPOST_KERNELS(avx2));
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      all.push_back(CELLPOST_KERNELS(avx512));
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
