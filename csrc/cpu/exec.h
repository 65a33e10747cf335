// Where the pipelines run on the CPU; the contract is in pipeline/labels.h.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel_for.h"
#include "pipeline/flows.h"

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

class Exec {
 public:
  template <class T>
  using Buffer = cpu::Buffer<T>;

  template <class T>
  Buffer<T> alloc(int64_t n) {
    return Buffer<T>(n);
  }

  template <class T>
  void fill(T* p, int64_t n, T value) {
    parallel_for(n, kPixelsPerPiece,
                 [=](int64_t begin, int64_t end) { std::fill(p + begin, p + end, value); });
  }

  template <class Job>
  void for_each(int64_t n, const Job& job) {
    parallel_for(n, kPixelsPerPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) job(i);
    });
  }

  template <class Job>
  void for_each_object(int64_t n, const Job& job) {
    parallel_for(n, kObjectsPerPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) job(i);
    });
  }

  template <class Job>
  void for_each_pixel(int64_t rows, int64_t width, const Job& job) {
    const int64_t rows_per_piece =
        std::max<int64_t>(1, kPixelsPerPiece / std::max<int64_t>(1, width));
    parallel_for(rows, rows_per_piece, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t x = 0; x < width; ++x) job(row, x);
      }
    });
  }

  template <class T, class Pred>
  Buffer<T> select(int64_t first, int64_t n, const Pred& pred) {
    const int64_t n_items = std::max<int64_t>(0, n - first);
    const int64_t n_pieces = (n_items + kPixelsPerPiece - 1) / kPixelsPerPiece;
    std::vector<std::vector<T>> found(static_cast<size_t>(n_pieces));
    parallel_for(n_items, kPixelsPerPiece, [&](int64_t begin, int64_t end) {
      auto& mine = found[static_cast<size_t>(begin / kPixelsPerPiece)];
      for (int64_t i = first + begin; i < first + end; ++i) {
        if (pred(i)) mine.push_back(static_cast<T>(i));
      }
    });
    size_t total = 0;
    for (const auto& piece : found) total += piece.size();
    Buffer<T> out(static_cast<int64_t>(total));
    T* at = out.data();
    for (const auto& piece : found) at = std::copy(piece.begin(), piece.end(), at);
    return out;
  }

  template <class K, class V>
  void sort_by(Buffer<K>& keys, Buffer<V>& values) {
    std::vector<std::pair<K, V>> rows(static_cast<size_t>(keys.size()));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = {keys.data()[i], values.data()[i]};
    std::stable_sort(rows.begin(), rows.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < rows.size(); ++i) {
      keys.data()[i] = rows[i].first;
      values.data()[i] = rows[i].second;
    }
  }

  int64_t scan(int64_t* counts, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += std::exchange(counts[i], total);
    return total;
  }

  int64_t sum(const int64_t* values, int64_t n) {
    return std::accumulate(values, values + n, int64_t{0});
  }

  template <class T>
  T read(const T* p) {
    return *p;
  }

  /// Points end in few bins, neighbours mostly in the same one: one update a run of equal bins.
  void count_bins(const IndexImage& ends, int64_t n, int32_t* counts) {
    parallel_for(n, kPixelsPerPiece, [&](int64_t begin, int64_t end) {
      int64_t bin = kNoPoint;
      int32_t run = 0;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t next = ends.get(i);
        if (next < 0) continue;
        if (next != bin) {
          if (run > 0) atomic_add(&counts[bin], run);
          bin = next;
          run = 0;
        }
        ++run;
      }
      if (run > 0) atomic_add(&counts[bin], run);
    });
  }

  /// Blocks of rows and columns, so that the field around a block's points stays in the cache.
  template <int N, Sampling S>
  int64_t trace(const Trace& trace, const TraceOutput& output) {
    const Shape& part = output.window.shape;
    const int64_t n_down = (part.rows() + kBlockRows - 1) / kBlockRows;
    const int64_t n_across = (part.x + kBlockColumns - 1) / kBlockColumns;
    const auto run = kernels().tracing.trace[N - 2][static_cast<int>(S)];
    int64_t n_points = 0;
    parallel_for(n_down * n_across, 1, [&](int64_t begin, int64_t) {
      const int64_t row = begin / n_across * kBlockRows, col = begin % n_across * kBlockColumns;
      atomic_add(&n_points, run(trace, output,
                                {row, std::min(row + kBlockRows, part.rows()), col,
                                 std::min(col + kBlockColumns, part.x)}));
    });
    return n_points;
  }

  template <int N, class Real>
  void diffuse(const HeatJob<N, Real>& job) {
    parallel_for(job.n_ids, kObjectsPerPiece,
                 [&](int64_t begin, int64_t end) { kernels().diffusion.diffuse(job, begin, end); });
  }

  template <class Energy>
  void flood(const Flood<Energy>& job) {
    parallel_for(job.n_components, kObjectsPerPiece, [&](int64_t begin, int64_t end) {
      FloodQueue<List> queue;
      for (int64_t i = begin; i < end; ++i) job(i, queue);
    });
  }

  void gradient_range(const HoverGradient& gradient, int64_t* low, int64_t* high) {
    for_each_block(gradient.shape, [&](const Block& block, double* scratch) {
      Range ranges[2] = {{INFINITY, -INFINITY}, {INFINITY, -INFINITY}};
      kernels().watershed.gradient_range(gradient, block, scratch, ranges);
      for (int c = 0; c < 2; ++c) {
        atomic_min(&low[c], ordered(ranges[c].low));
        atomic_max(&high[c], ordered(ranges[c].high));
      }
    });
  }

  void write_gradients(const HoverGradient& gradient, double* out) {
    for_each_block(gradient.shape, [&](const Block& block, double* scratch) {
      kernels().watershed.write_gradients(gradient, block, scratch, out);
    });
  }

  void find_border(const HoverGradient& gradient, const Rescale (&rescale)[2], const BitImage& mask,
                   float* border) {
    for_each_block(gradient.shape, [&](const Block& block, double* scratch) {
      if (any_bit(mask, block)) {
        kernels().watershed.find_border(gradient, rescale, block, scratch, border);
      }
    });
  }

 private:
  template <class T>
  using List = std::vector<T>;

  /// run(block, scratch) for blocks of an image whose kernels look at their surroundings.
  template <class Run>
  void for_each_block(const Shape& shape, const Run& run) {
    const int64_t n_down = (shape.y + kFilterRows - 1) / kFilterRows;
    const int64_t n_across = (shape.x + kBlockColumns - 1) / kBlockColumns;
    parallel_for(n_down * n_across, 1, [&](int64_t begin, int64_t) {
      Buffer<double> scratch(WatershedKernels::kScratch);
      const int64_t row = begin / n_across * kFilterRows, col = begin % n_across * kBlockColumns;
      run(Block{row, std::min(row + kFilterRows, shape.y), col,
                std::min(col + kBlockColumns, shape.x)},
          scratch.data());
    });
  }

  static bool any_bit(const BitImage& bits, const Block& block) {
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      for (int64_t w = block.col_begin / 64; w <= (block.col_end - 1) / 64; ++w) {
        if (bits.word(row, w) != 0) return true;
      }
    }
    return false;
  }

  static constexpr int64_t kFilterRows = 128;
  static constexpr int64_t kPixelsPerPiece = 1 << 15;
  static constexpr int64_t kObjectsPerPiece = 8;
  static constexpr int64_t kBlockRows = 32;
};

}  // namespace cellpost::cpu
