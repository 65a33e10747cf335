// A device to work on for the time of a call, and scratch memory on it in stream order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "core/place.h"

namespace cellpost::cuda {

/// Throws std::runtime_error, or for want of memory std::bad_alloc, that says what failed and why.
void check(cudaError_t status, const char* doing);

/// Makes the place's device current, and in the end the former one; gives back all but a little
/// of the scratch memory that calls on this device have reserved.
class OnDevice {
 public:
  explicit OnDevice(const Place& place);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaMemPool_t pool() const { return pool_; }
  /// Most shared memory that a block may have.
  int64_t shared_bytes() const { return shared_bytes_; }

 private:
  int former_ = 0;
  int64_t shared_bytes_ = 0;
  cudaMemPool_t pool_ = nullptr;
};

void* allocate(cudaMemPool_t pool, cudaStream_t stream, int64_t n, size_t size);

/// Uninitialised scratch, freed in stream order.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(cudaMemPool_t pool, cudaStream_t stream, int64_t n)
      : data_(static_cast<T*>(allocate(pool, stream, n, sizeof(T)))), size_(n), stream_(stream) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_) cudaFreeAsync(data_, stream_);
  }

  T* data() { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(stream_, other.stream_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace cellpost::cuda
