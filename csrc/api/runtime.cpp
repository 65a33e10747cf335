#include "api/runtime.h"

#include "api/check.h"
#include "cpu/kernels.h"
#include "cpu/parallel_for.h"

namespace cellpost::api {

Info info() {
  return {CELLPOST_VERSION, cpu::levels(), cpu::kernels().level, cpu::num_threads(), cuda::state()};
}

void set_num_threads(int64_t n) {
  if (n < 1 || n > 1024) reject("n", "a number of threads from 1 to 1024", std::to_string(n));
  cpu::set_num_threads(static_cast<int>(n));
}

int num_threads() { return cpu::num_threads(); }

void set_cpu_level(const std::string& name) { cpu::set_level(name); }

}  // namespace cellpost::api
