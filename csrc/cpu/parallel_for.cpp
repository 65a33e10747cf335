#include "cpu/parallel_for.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cellpost::cpu {
namespace {

constexpr int kMostThreads = 1024;

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<int>& setting() {
  static std::atomic<int> n{std::min(available_cpus(), kMostThreads)};
  return n;
}

}  // namespace

int num_threads() { return setting().load(); }
void set_num_threads(int n) { setting().store(std::min(std::max(n, 1), kMostThreads)); }

namespace detail {

void run_chunks(int64_t n_chunks, void (*run)(void*, int64_t), void* body) {
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      for (int64_t i = next++; i < n_chunks; i = next++) run(body, i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_lock);
      if (!error) error = std::current_exception();
      next = n_chunks;
    }
  };
  std::vector<std::thread> helpers;
  const int64_t n_helpers = std::min<int64_t>(num_threads(), n_chunks) - 1;
  if (n_helpers > 0) helpers.reserve(static_cast<size_t>(n_helpers));
  try {
    for (int64_t i = 0; i < n_helpers; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system gives no more threads: the ones that started do the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace detail
}  // namespace cellpost::cpu
