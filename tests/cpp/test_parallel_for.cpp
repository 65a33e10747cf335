#include "cpu/parallel_for.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"

using cellpost::cpu::num_threads;
using cellpost::cpu::parallel_for;
using cellpost::cpu::set_num_threads;

TEST(parallel_for, visits_every_item_once) {
  const int before = num_threads();
  for (const int threads : {1, 2, 7}) {
    set_num_threads(threads);
    for (const int64_t n : {0, 1, 7, 8, 1000}) {
      for (const int64_t grain : {1, 3, 8, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          CHECK(end - begin <= grain && begin % grain == 0);
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const auto& v : visits) CHECK(v == 1);
      }
    }
  }
  set_num_threads(before);
}

TEST(parallel_for, negative_n_does_nothing) {
  parallel_for(-1, 4, [](int64_t, int64_t) { CHECK(false); });
}

TEST(parallel_for, passes_an_exception_on_and_works_again) {
  const int before = num_threads();
  for (const int threads : {1, 4}) {
    set_num_threads(threads);
    CHECK_THROWS(parallel_for(100, 1,
                              [](int64_t begin, int64_t) {
                                if (begin == 17) throw std::domain_error("17");
                              }),
                 std::domain_error);
    std::atomic<int64_t> sum{0};
    parallel_for(100, 1, [&](int64_t begin, int64_t) { sum += begin; });
    CHECK(sum == 4950);
  }
  set_num_threads(before);
}

TEST(parallel_for, may_be_called_from_many_threads_and_from_itself) {
  const int before = num_threads();
  set_num_threads(3);
  std::atomic<int64_t> sum{0};
  const auto nested = [&] {
    parallel_for(10, 1, [&](int64_t, int64_t) {
      parallel_for(10, 2, [&](int64_t begin, int64_t end) { sum += end - begin; });
    });
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back(nested);
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 400);
  set_num_threads(before);
}

TEST(parallel_for, number_of_threads_is_kept_in_range) {
  const int before = num_threads();
  CHECK(before >= 1);
  set_num_threads(0);
  CHECK(num_threads() == 1);
  set_num_threads(5);
  CHECK(num_threads() == 5);
  set_num_threads(before);
}
