// Arrays for the tests: blocks of exactly the size needed, so that the sanitizers see every step
// beyond their ends; and seeded random numbers that are the same everywhere.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "api/array.h"
#include "api/runtime.h"

namespace cellpost::testing {

inline int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
}

/// C-contiguous array that owns its memory.
template <class T>
struct Owned {
  std::vector<int64_t> shape;
  std::unique_ptr<T[]> data;

  explicit Owned(std::vector<int64_t> s) : shape(std::move(s)), data(new T[size()]()) {}
  size_t size() const { return static_cast<size_t>(product(shape)); }
  T& operator[](int64_t i) { return data[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
  T* begin() { return data.get(); }
  T* end() { return data.get() + size(); }
  const T* begin() const { return data.get(); }
  const T* end() const { return data.get() + size(); }
  bool operator==(const Owned& other) const {
    return shape == other.shape && std::equal(data.get(), data.get() + size(), other.data.get());
  }
  Owned copy() const {
    Owned other(shape);
    std::copy(data.get(), data.get() + size(), other.data.get());
    return other;
  }
};

template <class T>
const char* dtype_name() {
  if (std::is_same_v<T, float>) return "float32";
  if (std::is_same_v<T, double>) return "float64";
  if (std::is_same_v<T, int32_t>) return "int32";
  if (std::is_same_v<T, int64_t>) return "int64";
  return std::is_same_v<T, bool> ? "bool" : "float16";
}

template <class T>
api::Array view(const char* name, const Owned<T>& owned) {
  api::Array array;
  array.name = name;
  array.data = owned.data.get();
  array.dtype = dtype_name<T>();
  array.shape = owned.shape;
  array.stride.assign(owned.shape.size(), 1);
  for (size_t k = owned.shape.size(); k-- > 1;) {
    array.stride[k - 1] = array.stride[k] * owned.shape[k];
  }
  return array;
}

/// splitmix64
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In [low, high).
  float real(float low, float high) {
    return low + (high - low) * (static_cast<float>(next() >> 40) * 0x1p-24f);
  }
  int64_t integer(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

/// Calls run() at every CPU level and with 1, 2 and 7 threads, then puts both back.
template <class Run>
void everywhere(const Run& run) {
  const int threads = api::num_threads();
  for (const std::string& level : api::info().cpu_levels) {
    for (const int n : {1, 2, 7}) {
      api::set_cpu_level(level);
      api::set_num_threads(n);
      run();
    }
  }
  api::set_cpu_level("");
  api::set_num_threads(threads);
}

}  // namespace cellpost::testing
