// Scratch memory of the CPU's stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cellpost::cpu {

/// Uninitialised scratch. Large blocks ask for huge pages: the stages touch them at random.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) : size_(n) {
    if (n == 0) return;
    if (n < 0 || n > PTRDIFF_MAX / static_cast<int64_t>(sizeof(T))) throw std::bad_alloc();
    constexpr size_t kHugePage = size_t{1} << 21;
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    const size_t align = bytes >= 4 * kHugePage ? kHugePage : 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(align, (bytes + align - 1) / align * align)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (align == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
  }
  T* data() { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

}  // namespace cellpost::cpu
