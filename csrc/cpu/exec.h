// Where the pipelines run on the CPU; the contract is in pipeline/labels.h.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/pair_table.h"
#include "cpu/parallel_for.h"
#include "pipeline/flows.h"
#include "pipeline/nms.h"
#include "pipeline/overlaps.h"
#include "pipeline/paste.h"
#include "pipeline/tiles.h"

namespace cellpost::cpu {

class Exec {
 public:
  template <class T>
  using Buffer = cpu::Buffer<T>;

  template <class T>
  Buffer<T> alloc(int64_t n) {
    return Buffer<T>(n);
  }

  template <class T>
  Buffer<T> copy_in(const T* host, int64_t n) {
    Buffer<T> copy(n);
    std::copy(host, host + n, copy.data());
    return copy;
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

  template <class Job>
  void for_each_run(const int32_t* labels, int64_t rows, int64_t width, const Job& job) {
    const int64_t rows_per_piece =
        std::max<int64_t>(1, kPixelsPerPiece / std::max<int64_t>(1, width));
    parallel_for(rows, rows_per_piece, [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> changes;
      for (int64_t row = begin; row < end; ++row) {
        each_run(labels + row * width, width, changes, [&](int32_t id, int64_t x, int64_t last) {
          if (id != 0) job(id, row, x, last);
        });
      }
    });
  }

  template <class Job>
  void for_each_core_run(const TileCores& cores, const Job& job) {
    parallel_for(cores.n_pieces(), kLinesPerPiece, [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> changes;
      for (int64_t i = begin; i < end; ++i) {
        const CorePiece piece = cores.piece(i);
        each_run(piece.ids, piece.n, changes, [&](int32_t id, int64_t x, int64_t last) {
          job(cores.tiles.number(piece.tile, id), piece.pixel + x, last - x);
        });
      }
    });
  }

  void apply_map(const int32_t* map, int32_t* labels, int64_t n) {
    parallel_for(n, kPixelsPerPiece, [&](int64_t begin, int64_t end) {
      kernels().labels.apply_map(map, labels + begin, end - begin);
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

  /// By digits, from the last to the first; those that all keys share cost nothing.
  template <class K, class V>
  void sort_by(Buffer<K>& keys, Buffer<V>& values) {
    using Digits = std::make_unsigned_t<K>;
    constexpr size_t kDigit = 8, kCount = size_t{1} << kDigit;
    constexpr Digits kSign = Digits{1} << (8 * sizeof(K) - 1);
    const int64_t n = keys.size();
    const auto digits = [](K key) { return static_cast<Digits>(key) ^ kSign; };
    std::array<std::array<int64_t, kCount>, sizeof(K)> counts{};
    for (int64_t i = 0; i < n; ++i) {
      const Digits d = digits(keys.data()[i]);
      for (size_t k = 0; k < sizeof(K); ++k) ++counts[k][(d >> (kDigit * k)) % kCount];
    }
    Buffer<K> other_keys(n);
    Buffer<V> other_values(n);
    for (size_t k = 0; k < sizeof(K); ++k) {
      auto& at = counts[k];
      if (std::find(at.begin(), at.end(), n) != at.end()) continue;
      scan(at.data(), static_cast<int64_t>(kCount));
      for (int64_t i = 0; i < n; ++i) {
        const K key = keys.data()[i];
        const int64_t to = at[(digits(key) >> (kDigit * k)) % kCount]++;
        other_keys.data()[to] = key;
        other_values.data()[to] = values.data()[i];
      }
      std::swap(keys, other_keys);
      std::swap(values, other_values);
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

  template <class T>
  std::vector<T> copy_out(const T* p, int64_t n) {
    return std::vector<T>(p, p + n);
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

  void check_crops(const Crops& crops, int64_t* first) {
    parallel_for(crops.n, kObjectsPerPiece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (!are_shares(crops, i)) atomic_min(first, i);
      }
    });
  }

  /// A thread takes a tile and the instances that lie in it, so that no two threads write to the
  /// same pixel and the tile stays in the cache.
  void paste(const Paste& job) {
    int64_t height = kPasteRows, width = kPasteColumns, n_across = 0;
    const auto for_each_tile = [&](int64_t i, const auto& visit) {
      const PasteWindow& w = job.windows[i];
      if (w.empty()) return;
      for (int64_t y = w.y0 / height; y <= (w.y1 - 1) / height; ++y) {
        for (int64_t x = w.x0 / width; x <= (w.x1 - 1) / width; ++x) {
          visit(static_cast<size_t>(y * n_across + x));
        }
      }
    };
    // Where most instances are large, larger tiles bound the list of what lies in each.
    std::vector<int64_t> begin;
    for (;; height *= 2, width *= 2) {
      n_across = (job.shape.x + width - 1) / width;
      begin.assign(static_cast<size_t>((job.shape.y + height - 1) / height * n_across) + 2, 0);
      for (int64_t i = 0; i < job.crops.n; ++i) {
        for_each_tile(i, [&](size_t tile) { ++begin[tile + 2]; });
      }
      for (size_t tile = 2; tile < begin.size(); ++tile) begin[tile] += begin[tile - 1];
      if (begin.back() <= kMostTilesEach * job.crops.n + kPixelsPerPiece) break;
    }
    Buffer<int32_t> in_tile(begin.back());
    for (int64_t i = 0; i < job.crops.n; ++i) {
      for_each_tile(
          i, [&](size_t tile) { in_tile.data()[begin[tile + 1]++] = static_cast<int32_t>(i); });
    }
    parallel_for(static_cast<int64_t>(begin.size()) - 2, 1, [&](int64_t tile, int64_t) {
      const auto first = static_cast<size_t>(tile);
      if (begin[first] == begin[first + 1]) return;
      PasteScratch scratch;
      Buffer<float> crop;
      const int64_t y = tile / n_across * height, x = tile % n_across * width;
      const PasteWindow own{
          static_cast<int32_t>(y), static_cast<int32_t>(std::min(y + height, job.shape.y)),
          static_cast<int32_t>(x), static_cast<int32_t>(std::min(x + width, job.shape.x))};
      prefetch(job, own);
      for (int64_t k = begin[first]; k < begin[first + 1]; ++k) {
        const int64_t i = in_tile.data()[k];
        if (k + 1 < begin[first + 1]) prefetch(job.crops, in_tile.data()[k + 1]);
        const PastePart part(job, i, common(job.windows[i], own));
        const int64_t n = PasteKernels::n_values(job, part);
        if (crop.size() < n) crop = Buffer<float>(n);
        kernels().paste.paste(job, part, scratch, crop.data());
      }
    });
  }

  void fill_bits(const Paste& job, const InstanceBits& bits) {
    parallel_for(job.crops.n, kObjectsPerPiece, [&](int64_t begin, int64_t end) {
      PasteScratch scratch;
      Buffer<float> crop;
      for (int64_t i = begin; i < end; ++i) {
        if (job.windows[i].empty()) continue;
        const PastePart part(job, i, job.windows[i]);
        const int64_t n = PasteKernels::n_values(job, part);
        if (crop.size() < n) crop = Buffer<float>(n);
        kernels().paste.fill_bits(job, part, scratch, crop.data(), bits);
      }
    });
  }

  /// Each piece of lines counts its pairs in a table of its own.
  template <class Lines>
  void count_pairs(int64_t n_lines, int64_t width, const Lines& lines, Buffer<int64_t>& keys,
                   Buffer<int64_t>& counts) {
    const int64_t grain = std::max<int64_t>(
        1, std::min(8 * kPixelsPerPiece / std::max<int64_t>(1, width), n_lines / kFewestPieces));
    std::vector<PairTable> found(static_cast<size_t>((n_lines + grain - 1) / grain));
    parallel_for(n_lines, grain, [&](int64_t begin, int64_t end) {
      PairTable& table = found[static_cast<size_t>(begin / grain)];
      std::vector<uint64_t> changes(static_cast<size_t>((width + 63) / 64)), more(changes.size());
      for (int64_t i = begin; i < end; ++i) {
        if (i + kLinesAhead < end) prefetch(lines(i + kLinesAhead));
        const LinePair line = lines(i);
        if (line.n == 0) continue;
        kernels().labels.find_changes(line.a, line.n, changes.data());
        kernels().labels.find_changes(line.b, line.n, more.data());
        int64_t first = 0;
        const auto add = [&](int64_t last) {
          if (last > first && !line.is_background(first)) table.add(line.key(first), last - first);
          first = last;
        };
        for (int64_t k = 0; k < (line.n + 63) / 64; ++k) {
          const auto word = static_cast<size_t>(k);
          for (uint64_t bits = changes[word] | more[word]; bits != 0; bits &= bits - 1) {
            add(64 * k + lowest_bit(bits));
          }
        }
        add(line.n);
      }
      table.close();
    });
    int64_t n = 0;
    for (const PairTable& table : found) n += table.size();
    keys = Buffer<int64_t>(n);
    counts = Buffer<int64_t>(n);
    n = 0;
    for (PairTable& table : found) {
      n += table.write(keys.data() + n, counts.data() + n);
      table = PairTable();
    }
  }

  /// Some lines at a time, whose tiles' lines follow each other in memory.
  void blend(const TileBlend& job) {
    int64_t n_groups = 1;  // tiles of a line of the grid that a line of the map meets
    for (int k = 0; k < 2; ++k) {
      int64_t most = 0;
      const TileAxis& axis = job.axis[k];
      for (int64_t first = 0, last = 0; first < axis.n; ++first) {
        while (last < axis.n && axis.begin[last] < axis.end[first]) ++last;
        most = std::max(most, last - first);
      }
      n_groups *= most;
    }
    const int64_t lines = std::max<int64_t>(1, kPixelsPerPiece / (job.size[2] * job.channels));
    parallel_for(job.lines(), lines, [&](int64_t begin, int64_t end) {
      Buffer<TileLine> scratch(2 * n_groups * job.axis[2].n);
      kernels().tiles.blend(job, begin, end, scratch.data());
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

  /// visit(id, begin, end) for the runs of a line; `changes` is scratch.
  template <class Visit>
  static void each_run(const int32_t* line, int64_t n, std::vector<uint64_t>& changes,
                       const Visit& visit) {
    if (n == 0) return;
    changes.resize(static_cast<size_t>((n + 63) / 64));
    kernels().labels.find_changes(line, n, changes.data());
    int64_t first = 0;
    for (size_t k = 0; k < changes.size(); ++k) {
      for (uint64_t bits = changes[k]; bits != 0; bits &= bits - 1) {
        const int64_t x = 64 * static_cast<int64_t>(k) + lowest_bit(bits);
        if (x > first) visit(line[first], first, x);
        first = x;
      }
    }
    visit(line[first], first, n);
  }

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

  /// A crop whose values follow each other in memory: where; else null.
  static const char* dense_crop(const Crops& crops, int64_t i) {
    const FloatView& v = crops.values;
    if (!crops.start && (v.stride[3] != 1 || v.stride[2] != crops.width)) return nullptr;
    const int64_t at = crops.start ? crops.start[i] : i * v.stride[0];
    return static_cast<const char*>(v.data) + at * item_size(v.dtype);
  }

  static bool are_shares(const Crops& crops, int64_t i) {
    const int64_t h = crops.height_of(i), w = crops.width_of(i);
    if (const char* const values = dense_crop(crops, i)) {
      return kernels().paste.are_shares(values, crops.values.dtype, h * w);
    }
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        if (!is_share(crops.at(i, y, x))) return false;
      }
    }
    return true;
  }

  /// The crops of a tile lie anywhere in memory.
  static void prefetch(const Crops& crops, int64_t i) {
    constexpr int64_t kMost = 1 << 13;
    const int64_t bytes =
        crops.height_of(i) * int64_t{crops.width_of(i)} * item_size(crops.values.dtype);
    const char* const values = dense_crop(crops, i);
    if (values == nullptr || bytes > kMost) return;
    for (int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(values + at);
  }

  /// Short lines of tiles lie far from each other, each of which would wait.
  static void prefetch(const LinePair& line) {
    if (line.n > kShortLine) return;
    const int64_t bytes = line.n * static_cast<int64_t>(sizeof(int32_t));
    for (int64_t at = 0; at < bytes; at += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const char*>(line.a) + at);
      __builtin_prefetch(reinterpret_cast<const char*>(line.b) + at);
    }
  }

  /// Labels in the order of memory: the instances touch them in short pieces, each of which would
  /// wait.
  static void prefetch(const Paste& job, const PasteWindow& tile) {
    const int64_t bytes = (int64_t{tile.x1} - tile.x0) * static_cast<int64_t>(sizeof(int32_t));
    for (int64_t y = tile.y0; y < tile.y1; ++y) {
      const auto* const row = reinterpret_cast<const char*>(job.labels + y * job.shape.x + tile.x0);
      for (int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(row + at, 1, 2);
    }
  }

  static bool any_bit(const BitImage& bits, const Block& block) {
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      for (int64_t w = block.col_begin / 64; w <= (block.col_end - 1) / 64; ++w) {
        if (bits.word(row, w) != 0) return true;
      }
    }
    return false;
  }

  static constexpr int64_t kCacheLine = 64, kMostTilesEach = 8;
  static constexpr int64_t kLinesAhead = 4, kShortLine = 128;      // pixels
  static constexpr int64_t kPasteRows = 64, kPasteColumns = 1024;  // 256 KiB of labels
  static constexpr int64_t kFilterRows = 128;
  static constexpr int64_t kPixelsPerPiece = 1 << 15;
  static constexpr int64_t kLinesPerPiece = 256, kFewestPieces = 16;
  static constexpr int64_t kObjectsPerPiece = 8;
  static constexpr int64_t kBlockRows = 32;
};

}  // namespace cellpost::cpu
