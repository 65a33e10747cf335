// Integer atomics of one spelling for both devices. Relaxed: stages are separated by a join.
// Only integers: a float sum would depend on the order in which threads arrive.
#pragma once

#include "core/host_device.h"

namespace cellpost {

#if defined(__CUDA_ARCH__)
CELLPOST_FN void atomic_add(int32_t* p, int32_t v) { atomicAdd(p, v); }
CELLPOST_FN void atomic_add(int64_t* p, int64_t v) {
  atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(v));
}
CELLPOST_FN void atomic_min(int32_t* p, int32_t v) { atomicMin(p, v); }
CELLPOST_FN void atomic_max(int32_t* p, int32_t v) { atomicMax(p, v); }
CELLPOST_FN void atomic_min(int64_t* p, int64_t v) {
  atomicMin(reinterpret_cast<long long*>(p), static_cast<long long>(v));
}
CELLPOST_FN void atomic_max(int64_t* p, int64_t v) {
  atomicMax(reinterpret_cast<long long*>(p), static_cast<long long>(v));
}
CELLPOST_FN void atomic_or(int32_t* p, int32_t v) { atomicOr(p, v); }
template <class T>
CELLPOST_FN T atomic_load(const T* p) {
  return *static_cast<const volatile T*>(p);
}
template <class T>
CELLPOST_FN void atomic_store(T* p, T v) {
  *static_cast<volatile T*>(p) = v;
}
#else
template <class T>
CELLPOST_FN T atomic_load(const T* p) {
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
template <class T>
CELLPOST_FN void atomic_store(T* p, T v) {
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
CELLPOST_FN void atomic_add(T* p, T v) {
  __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
CELLPOST_FN void atomic_or(T* p, T v) {
  __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T>
CELLPOST_FN void atomic_min(T* p, T v) {
  T seen = atomic_load(p);
  while (v < seen &&
         !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}
template <class T>
CELLPOST_FN void atomic_max(T* p, T v) {
  T seen = atomic_load(p);
  while (v > seen &&
         !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}
#endif

}  // namespace cellpost
