#include "cuda/memory.h"

#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

namespace cellpost::cuda {
namespace {

/// Scratch memory that stays reserved on a device between calls, so that small images need not
/// wait for it.
constexpr size_t kKeptBytes = size_t{64} << 20;

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// One pool of our own a device: the default one is the application's to tune.
cudaMemPool_t pool_of(int device) {
  static std::mutex lock;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard<std::mutex> guard(lock);
  cudaMemPool_t& pool = pools[device];
  if (!pool) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t made = nullptr;
    check(cudaMemPoolCreate(&made, &properties), "making a memory pool");
    uint64_t all = std::numeric_limits<uint64_t>::max();
    check(cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &all),
          "setting up a memory pool");
    pool = made;
  }
  return pool;
}

}  // namespace

void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  const std::string message =
      std::string("CUDA: ") + doing + " failed: " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(message);
  throw std::runtime_error(message);
}

OnDevice::OnDevice(const Place& place) {
  check(cudaGetDevice(&former_), "finding the device");
  check(cudaSetDevice(place.device), "choosing the device");
  try {
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, place.device),
          "asking for the size of shared memory");
    shared_bytes_ = bytes;
    pool_ = pool_of(place.device);
  } catch (...) {
    cudaSetDevice(former_);
    throw;
  }
}

OnDevice::~OnDevice() {
  cudaMemPoolTrimTo(pool_, kKeptBytes);
  cudaSetDevice(former_);
}

void* allocate(cudaMemPool_t pool, cudaStream_t stream, int64_t n, size_t size) {
  if (n == 0) return nullptr;
  void* data = nullptr;
  const size_t bytes = static_cast<size_t>(n) * size;
  const cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool, stream);
  if (status != cudaSuccess) {
    check(status, ("allocating " + std::to_string(bytes) + " bytes").c_str());
  }
  return data;
}

}  // namespace cellpost::cuda
