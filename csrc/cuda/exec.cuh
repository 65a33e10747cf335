// Where the pipelines run on a CUDA device; the contract is in pipeline/labels.h.
#pragma once

#include <cuda_runtime.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>
#include <limits>
#include <utility>

#include "core/place.h"
#include "cuda/flows_diffusion.cuh"
#include "cuda/memory.h"
#include "cuda/paste.cuh"
#include "cuda/watershed.cuh"
#include "pipeline/flows.h"
#include "pipeline/nms.h"
#include "pipeline/overlaps.h"
#include "pipeline/paste.h"
#include "pipeline/tiles.h"
#include "pipeline/watershed.h"

namespace cellpost::cuda {

// ---- kernels -----------------------------------------------------------------------------------

constexpr int kThreads = 256;

template <class Job>
__global__ void run_items(int64_t n, Job job) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) job(i);
}

/// A block is a tile of kRows x kColumns pixels and a warp one of 4 x 8, so that a warp's points
/// start, and mostly stay, in the same few lines of the field.
struct Tile {
  static constexpr int kRows = 16, kColumns = 16;
  int64_t row, col;

  __device__ explicit Tile(int64_t n_across) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    row = int64_t{blockIdx.x} / n_across * kRows + warp / 2 * 4 + lane / 8;
    col = int64_t{blockIdx.x} % n_across * kColumns + warp % 2 * 8 + lane % 8;
  }
};

template <class Job>
__global__ void run_pixels(int64_t rows, int64_t width, int64_t n_across, Job job) {
  const Tile at(n_across);
  if (at.row < rows && at.col < width) job(at.row, at.col);
}

/// A run is its first pixel's.
template <class Job>
__global__ void run_runs(const int32_t* labels, int64_t rows, int64_t width, int64_t n_across,
                         Job job) {
  const Tile at(n_across);
  if (at.row >= rows || at.col >= width) return;
  const int32_t* const line = labels + at.row * width;
  const int32_t id = line[at.col];
  if (id == 0 || (at.col > 0 && line[at.col - 1] == id)) return;
  int64_t end = at.col + 1;
  while (end < width && line[end] == id) ++end;
  job(id, at.row, at.col, end);
}

template <int N, Sampling S>
__global__ void trace_pixels(int64_t n_across, FollowPixel<N, S> follow, int64_t* n_points) {
  const Tile at(n_across);
  const Shape& part = follow.output.window.shape;
  const bool inside = at.row < part.rows() && at.col < part.x;
  const bool marked = inside && follow.output.ends.get(at.row * part.x + at.col) != kNoPoint;
  const int n = __syncthreads_count(marked);
  if (threadIdx.x == 0 && n > 0) atomic_add(n_points, int64_t{n});
  if (marked) follow(at.row, at.col);
}

/// Points of a warp that ended in the same bin make one update.
static __global__ void count_ends(IndexImage ends, int64_t n, int32_t* counts) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t bin = i < n ? ends.get(i) : kNoPoint;
  const unsigned same = __match_any_sync(0xffffffffu, static_cast<unsigned long long>(bin));
  const int first = __ffs(static_cast<int>(same)) - 1;
  if (bin >= 0 && static_cast<int>(threadIdx.x) % 32 == first) {
    atomic_add(&counts[bin], static_cast<int32_t>(__popc(same)));
  }
}

template <class T>
struct Fill {
  T* p;
  T value;
  __device__ void operator()(int64_t i) const { p[i] = value; }
};

template <class Pred>
struct CountIf {
  Pred pred;
  __device__ int64_t operator()(int64_t i) const { return pred(i) ? 1 : 0; }
};

template <class Lines>
struct StartsPair {
  Lines lines;
  int64_t width;
  __device__ bool operator()(int64_t i) const {
    const LinePair line = lines(i / width);
    const int64_t x = i % width;
    return x < line.n && !line.is_background(x) && line.starts_run(x);
  }
};

template <class Lines>
struct MeasurePair {
  Lines lines;
  int64_t width;
  const int64_t* runs;
  int64_t *key, *count;
  __device__ void operator()(int64_t i) const {
    const LinePair line = lines(runs[i] / width);
    const int64_t x = runs[i] % width;
    int64_t end = x + 1;
    while (end < line.n && !line.starts_run(end)) ++end;
    key[i] = line.key(x);
    count[i] = end - x;
  }
};

struct CopyPair {
  const int64_t *key, *count;
  int64_t *key_out, *count_out;
  __device__ void operator()(int64_t i) const {
    key_out[i] = key[i];
    count_out[i] = count[i];
  }
};

// ---- the place ---------------------------------------------------------------------------------

/// job(number of the id, first pixel, pixels) for the runs of a piece.
template <class Job>
struct CoreRuns {
  TileCores cores;
  Job job;

  __device__ void operator()(int64_t i) const {
    const CorePiece piece = cores.piece(i);
    for (int64_t x = 0, end = 0; x < piece.n; x = end) {
      const int32_t id = piece.ids[x];
      for (end = x + 1; end < piece.n && piece.ids[end] == id;) ++end;
      job(cores.tiles.number(piece.tile, id), piece.pixel + x, end - x);
    }
  }
};

class Exec {
 public:
  template <class T>
  using Buffer = cuda::Buffer<T>;

  explicit Exec(const Place& place)
      : on_(place), stream_(static_cast<cudaStream_t>(place.stream)) {}

  template <class T>
  Buffer<T> alloc(int64_t n) {
    return Buffer<T>(on_.pool(), stream_, n);
  }

  template <class T>
  Buffer<T> copy_in(const T* host, int64_t n) {
    auto copy = alloc<T>(n);
    check(cudaMemcpyAsync(copy.data(), host, static_cast<size_t>(n) * sizeof(T),
                          cudaMemcpyHostToDevice, stream_),
          "copying a table");
    return copy;
  }

  template <class T>
  void fill(T* p, int64_t n, T value) {
    for_each(n, Fill<T>{p, value});
  }

  template <class Job>
  void for_each(int64_t n, const Job& job) {
    if (n <= 0) return;
    run_items<<<n_blocks(n), kThreads, 0, stream_>>>(n, job);
    check_launch();
  }

  template <class Job>
  void for_each_object(int64_t n, const Job& job) {
    for_each(n, job);
  }

  template <class Job>
  void for_each_pixel(int64_t rows, int64_t width, const Job& job) {
    if (rows <= 0 || width <= 0) return;
    const int64_t n_across = tiles(width, Tile::kColumns);
    run_pixels<<<blocks(tiles(rows, Tile::kRows) * n_across), kThreads, 0, stream_>>>(
        rows, width, n_across, job);
    check_launch();
  }

  template <class Job>
  void for_each_run(const int32_t* labels, int64_t rows, int64_t width, const Job& job) {
    if (rows <= 0 || width <= 0) return;
    const int64_t n_across = tiles(width, Tile::kColumns);
    run_runs<<<blocks(tiles(rows, Tile::kRows) * n_across), kThreads, 0, stream_>>>(
        labels, rows, width, n_across, job);
    check_launch();
  }

  template <class Job>
  void for_each_core_run(const TileCores& cores, const Job& job) {
    for_each(cores.n_pieces(), CoreRuns<Job>{cores, job});
  }

  void apply_map(const int32_t* map, int32_t* labels, int64_t n) {
    for_each(n, ApplyMap{map, labels});
  }

  template <class T, class Pred>
  Buffer<T> select(int64_t first, int64_t n, const Pred& pred) {
    const int64_t n_items = n - first;
    if (n_items <= 0) return {};
    const thrust::counting_iterator<int64_t> items(first);
    auto out = alloc<T>(sum(thrust::make_transform_iterator(items, CountIf<Pred>{pred}), n_items));
    if (out.size() == 0) return out;
    auto n_selected = alloc<int64_t>(1);
    with_scratch([&](void* scratch, size_t& bytes) {
      return cub::DeviceSelect::If(scratch, bytes, items, out.data(), n_selected.data(), n_items,
                                   pred, stream_);
    });
    return out;
  }

  template <class K, class V>
  void sort_by(Buffer<K>& keys, Buffer<V>& values) {
    if (keys.size() < 2) return;
    auto sorted_keys = alloc<K>(keys.size());
    auto sorted_values = alloc<V>(values.size());
    with_scratch([&](void* scratch, size_t& bytes) {
      return cub::DeviceRadixSort::SortPairs(scratch, bytes, keys.data(), sorted_keys.data(),
                                             values.data(), sorted_values.data(), keys.size(), 0,
                                             static_cast<int>(8 * sizeof(K)), stream_);
    });
    keys = std::move(sorted_keys);
    values = std::move(sorted_values);
  }

  int64_t scan(int64_t* counts, int64_t n) {
    if (n <= 0) return 0;
    const int64_t total = sum(counts, n);
    with_scratch([&](void* scratch, size_t& bytes) {
      return cub::DeviceScan::ExclusiveSum(scratch, bytes, counts, counts, n, stream_);
    });
    return total;
  }

  template <class Iterator>
  int64_t sum(Iterator values, int64_t n) {
    if (n <= 0) return 0;
    auto total = alloc<int64_t>(1);
    with_scratch([&](void* scratch, size_t& bytes) {
      return cub::DeviceReduce::Sum(scratch, bytes, values, total.data(), n, stream_);
    });
    return read(total.data());
  }

  template <class T>
  T read(const T* p) {
    T value;
    check(cudaMemcpyAsync(&value, p, sizeof(T), cudaMemcpyDeviceToHost, stream_), "reading back");
    finish();
    return value;
  }

  template <class T>
  std::vector<T> copy_out(const T* p, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    if (n > 0) {
      check(cudaMemcpyAsync(values.data(), p, static_cast<size_t>(n) * sizeof(T),
                            cudaMemcpyDeviceToHost, stream_),
            "reading back");
    }
    finish();
    return values;
  }

  void count_bins(const IndexImage& ends, int64_t n, int32_t* counts) {
    if (n <= 0) return;
    count_ends<<<n_blocks(n), kThreads, 0, stream_>>>(ends, n, counts);
    check_launch();
  }

  template <int N, Sampling S>
  int64_t trace(const Trace& trace, const TraceOutput& output) {
    const Shape& part = output.window.shape;
    auto n_points = alloc<int64_t>(1);
    fill(n_points.data(), 1, int64_t{0});
    const int64_t n_across = tiles(part.x, Tile::kColumns);
    trace_pixels<<<blocks(tiles(part.rows(), Tile::kRows) * n_across), kThreads, 0, stream_>>>(
        n_across, FollowPixel<N, S>{trace, output}, n_points.data());
    check_launch();
    return read(n_points.data());
  }

  /// Objects that fit into shared memory take a block each, classed by size so that small ones
  /// share a multiprocessor; the pixels of all others step together in global memory.
  template <int N, class Real>
  void diffuse(const HeatJob<N, Real>& job) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, diffuse_in_shared<N, Real>), "asking for a kernel");
    const int64_t most = on_.shared_bytes() - static_cast<int64_t>(attributes.sharedSizeBytes);
    // The same value in every call: the setting is the device's, and other threads may launch.
    check(cudaFuncSetAttribute(diffuse_in_shared<N, Real>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most)),
          "asking for shared memory");
    int64_t below = 0;
    for (const auto& [limit, threads] :
         {std::pair<int64_t, int>{12 << 10, 128}, {24 << 10, 256}, {48 << 10, 256}, {most, 512}}) {
      auto list = select<int32_t>(
          0, job.n_ids, TakesShared<N, Real>{job.table, job.ids, below, std::min(limit, most)});
      below = limit;
      if (list.size() == 0) continue;
      diffuse_in_shared<N, Real>
          <<<blocks(list.size()), threads, static_cast<size_t>(std::min(limit, most)), stream_>>>(
              job, list.data());
      check_launch();
    }
    auto large = alloc<int32_t>(job.table.n + 1);
    fill(large.data(), job.table.n + 1, int32_t{0});
    for_each(job.n_ids,
             MarkLarge<N, Real>{{job.table, job.ids, most, std::numeric_limits<int64_t>::max()},
                                large.data()});
    auto pixels = select<int64_t>(0, job.shape.pixels(), IsOfLarge{job.labels, large.data()});
    if (pixels.size() == 0) return;
    auto other = alloc<Real>(job.shape.pixels());
    Real* from = job.n_steps % 2 == 0 ? job.heat : other.data();
    Real* to = job.n_steps % 2 == 0 ? other.data() : job.heat;
    for_each(pixels.size(), StartHeat<N, Real>{job, pixels.data(), from});
    for (int64_t left = job.n_steps; left > 0; --left) {
      for_each(pixels.size(), StepHeat<N, Real>{job, pixels.data(), from, to, left > 1});
      std::swap(from, to);
    }
  }

  /// A thread a component, with scratch for all of their pixels.
  template <class Energy>
  void flood(const Flood<Energy>& job) {
    const int64_t n = job.n_components;
    auto first = alloc<int64_t>(n);
    for_each(n, CountPixels<Energy>{job, first.data()});
    const int64_t n_pixels = scan(first.data(), n);
    auto heap = alloc<FloodEntry>(n_pixels);
    auto line = alloc<FloodPixel>(n_pixels);
    for_each(n, FloodAlone<Energy>{job, first.data(), heap.data(), line.data()});
  }

  void gradient_range(const HoverGradient& gradient, int64_t* low, int64_t* high) {
    derive(gradient, NoteRange{low, high});
  }
  void write_gradients(const HoverGradient& gradient, double* out) {
    derive(gradient, WriteGradient{gradient.shape, out});
  }
  void find_border(const HoverGradient& gradient, const Rescale (&rescale)[2], const BitImage&,
                   float* border) {
    derive(gradient, WriteBorder{gradient.shape, {rescale[0], rescale[1]}, border});
  }

  void check_crops(const Crops& crops, int64_t* first) {
    check_crop<<<blocks(crops.n), kPasteThreads, 0, stream_>>>(crops, first);
    check_launch();
  }
  void paste(const Paste& job) {
    paste_instance<<<blocks(job.crops.n), kPasteThreads, 0, stream_>>>(job);
    check_launch();
  }

  void fill_bits(const Paste& job, const InstanceBits& bits) {
    fill_instance_bits<<<blocks(job.crops.n), kPasteThreads, 0, stream_>>>(job, bits);
    check_launch();
  }

  /// Lines in chunks that bound the scratch: the runs of a chunk are listed, sorted by their pairs
  /// and summed up before the next one's.
  template <class Lines>
  void count_pairs(int64_t n_lines, int64_t width, const Lines& lines, Buffer<int64_t>& keys,
                   Buffer<int64_t>& counts) {
    constexpr int64_t kChunk = int64_t{1} << 24;
    const int64_t grain = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, width));
    for (int64_t begin = 0; begin < n_lines; begin += grain) {
      const int64_t end = std::min(begin + grain, n_lines);
      auto runs = select<int64_t>(begin * width, end * width, StartsPair<Lines>{lines, width});
      const int64_t n = runs.size(), n_before = keys.size();
      if (n == 0) continue;
      auto key = alloc<int64_t>(n_before + n);
      auto count = alloc<int64_t>(n_before + n);
      if (n_before > 0) {
        for_each(n_before, CopyPair{keys.data(), counts.data(), key.data(), count.data()});
      }
      for_each(n, MeasurePair<Lines>{lines, width, runs.data(), key.data() + n_before,
                                     count.data() + n_before});
      sort_by(key, count);
      auto starts = select<int64_t>(0, n_before + n, IsFirstOfKey{key.data()});
      keys = alloc<int64_t>(starts.size());
      counts = alloc<int64_t>(starts.size());
      for_each(starts.size(), SumOfKey{key.data(), count.data(), starts.data(), starts.size(),
                                       n_before + n, keys.data(), counts.data()});
    }
  }

  /// A thread a pixel: neighbours read neighbouring values of each tile.
  void blend(const TileBlend& job) {
    switch (job.dtype) {
      case DType::f64:
        return for_each_line<DType::f64>(job);
      case DType::f16:
        return for_each_line<DType::f16>(job);
      case DType::bf16:
        return for_each_line<DType::bf16>(job);
      default:
        return for_each_line<DType::f32>(job);
    }
  }

  /// Waits for the work, so that an error of it is this call's.
  void finish() { check(cudaStreamSynchronize(stream_), "running the kernels"); }

 private:
  template <DType D>
  void for_each_line(const TileBlend& job) {
    for_each(job.lines() * job.size[2], BlendLinear<D>{{job}});
  }

  template <class Visit>
  void derive(const HoverGradient& gradient, const Visit& visit) {
    const int64_t n_across = tiles(gradient.shape.x, DeriveTile::kSide);
    derive_tiles<<<blocks(tiles(gradient.shape.y, DeriveTile::kSide) * n_across),
                   DeriveTile::kThreads, 0, stream_>>>(gradient, n_across, visit);
    check_launch();
  }

  static int64_t tiles(int64_t n, int64_t side) { return (n + side - 1) / side; }
  static unsigned blocks(int64_t n) {
    if (n > std::numeric_limits<int32_t>::max()) {
      throw std::length_error("image: too large for one CUDA launch");
    }
    return static_cast<unsigned>(n);
  }
  static unsigned n_blocks(int64_t n) { return blocks(tiles(n, kThreads)); }
  static void check_launch() { check(cudaGetLastError(), "launching a kernel"); }

  /// Calls a CUB algorithm as it wants to be called: for its scratch size, then with scratch.
  template <class Algorithm>
  void with_scratch(const Algorithm& algorithm) {
    size_t bytes = 0;
    check(algorithm(nullptr, bytes), "asking for scratch");
    auto scratch = alloc<uint8_t>(static_cast<int64_t>(std::max<size_t>(bytes, 1)));
    check(algorithm(scratch.data(), bytes), "launching an algorithm");
  }

  OnDevice on_;
  cudaStream_t stream_;
};

/// Runs `work(exec)` at the place; when this returns, the work is done.
template <class Work>
auto run_at(const Place& place, const Work& work) {
  Exec exec(place);
  if constexpr (std::is_void_v<decltype(work(exec))>) {
    work(exec);
    exec.finish();
  } else {
    const auto result = work(exec);
    exec.finish();
    return result;
  }
}

}  // namespace cellpost::cuda
