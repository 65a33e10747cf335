// The only CPU threading code. Threads live for one call: nothing has to survive a fork, and calls
// from many Python threads at once do not share state.
#pragma once

#include <cstdint>

namespace cellpost::cpu {

/// Threads that a call may use, from 1 to 1024. Starts as the number of CPUs that this process may
/// run on.
int num_threads();
void set_num_threads(int n);

namespace detail {
void run_chunks(int64_t n_chunks, void (*run)(void* body, int64_t chunk), void* body);
}

/// body(begin, end) for consecutive pieces of [0, n) of at most `grain` items, on several threads,
/// in any order. The first exception is thrown again in the caller once all threads have stopped.
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  if (n <= 0) return;
  struct Pieces {
    Body& body;
    int64_t n, grain;
  } pieces{body, n, grain};
  detail::run_chunks((n + grain - 1) / grain,
                     [](void* p, int64_t chunk) {
                       auto& all = *static_cast<Pieces*>(p);
                       const int64_t begin = chunk * all.grain;
                       all.body(begin, begin + all.grain < all.n ? begin + all.grain : all.n);
                     },
                     &pieces);
}

}  // namespace cellpost::cpu
