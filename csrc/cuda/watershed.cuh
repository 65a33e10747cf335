// The watershed family's own kernels for CUDA devices: derivatives by tiles in shared memory, and
// flooding by a thread a component.
#pragma once

#include "core/watershed_hover.h"

namespace cellpost::cuda {

// ---- derivatives -------------------------------------------------------------------------------

struct DeriveTile {
  static constexpr int kSide = 32, kThreads = 256;
  static constexpr int kPadded = kSide + SobelKernels::kMostSize - 1;
};

/// Calls visit(channel, y, x, derivative) for each pixel, always both channels of a pixel in the
/// same thread and H before V, then visit.finish().
template <class Visit>
__global__ void derive_tiles(HoverGradient gradient, int64_t n_across, Visit visit) {
  constexpr int kSide = DeriveTile::kSide;
  __shared__ float scaled[DeriveTile::kPadded * DeriveTile::kPadded];
  __shared__ double partial[DeriveTile::kPadded * kSide];
  const Shape& shape = gradient.shape;
  const int64_t row = int64_t{blockIdx.x} / n_across * kSide;
  const int64_t col = int64_t{blockIdx.x} % n_across * kSide;
  const int first = static_cast<int>(threadIdx.x), stride = DeriveTile::kThreads;
  const int radius = gradient.kernels.radius, size = gradient.kernels.size;
  const int width = kSide + 2 * radius;
  const bool rows_first = gradient.style == HoverStyle::hovernet;
  auto* const sums = reinterpret_cast<float*>(partial);
  for (int channel = 0; channel < 2; ++channel) {
    const double* const across = gradient.row_kernel(channel);
    const double* const down = gradient.column_kernel(channel);
    for (int i = first; i < width * width; i += stride) {
      scaled[i] = gradient.value(channel, mirrored(row - radius + i / width, shape.y),
                                 mirrored(col - radius + i % width, shape.x));
    }
    __syncthreads();
    if (rows_first) {
      for (int i = first; i < width * kSide; i += stride) {
        partial[i] = sum_row(across, size, scaled + i / kSide * width + i % kSide);
      }
    } else {
      for (int i = first; i < kSide * width; i += stride) {
        sums[i] = sum_fused(down, size, scaled + i, width);
      }
    }
    __syncthreads();
    for (int i = first; i < kSide * kSide; i += stride) {
      const int y = i / kSide, x = i % kSide;
      if (row + y >= shape.y || col + x >= shape.x) continue;
      if (rows_first) {
        visit(channel, row + y, col + x,
              sum_column(down, radius, channel == 1, partial + (y + radius) * kSide + x, kSide));
      } else {
        visit(channel, row + y, col + x, sum_fused(across, size, sums + y * width + x, 1));
      }
    }
    __syncthreads();
  }
  visit.finish();
}

/// Each thread's range, then each warp's, then the image's.
struct NoteRange {
  int64_t* low;
  int64_t* high;
  int64_t least[2] = {INT64_MAX, INT64_MAX}, most[2] = {INT64_MIN, INT64_MIN};

  NoteRange(int64_t* l, int64_t* h) : low(l), high(h) {}

  template <class Real>
  __device__ void operator()(int channel, int64_t, int64_t, Real value) {
    const int64_t v = ordered(static_cast<double>(value));
    least[channel] = v < least[channel] ? v : least[channel];
    most[channel] = v > most[channel] ? v : most[channel];
  }
  __device__ void finish() {
    for (int c = 0; c < 2; ++c) {
      for (int lane = 16; lane > 0; lane /= 2) {
        const int64_t l = __shfl_down_sync(0xffffffffu, static_cast<long long>(least[c]), lane);
        const int64_t m = __shfl_down_sync(0xffffffffu, static_cast<long long>(most[c]), lane);
        least[c] = l < least[c] ? l : least[c];
        most[c] = m > most[c] ? m : most[c];
      }
      if (threadIdx.x % 32 == 0) {
        atomic_min(&low[c], least[c]);
        atomic_max(&high[c], most[c]);
      }
    }
  }
};

struct WriteGradient {
  Shape shape;
  double* out;
  template <class Real>
  __device__ void operator()(int channel, int64_t y, int64_t x, Real value) const {
    out[(channel * shape.y + y) * shape.x + x] = static_cast<double>(value);
  }
  __device__ void finish() const {}
};

struct WriteBorder {
  Shape shape;
  Rescale rescale[2];
  float* border;
  template <class Real>
  __device__ void operator()(int channel, int64_t y, int64_t x, Real value) const {
    float& to = border[y * shape.x + x];
    const float side = 1.0f - rescale[channel].gradient(value);
    to = channel == 1 && to > side ? to : side;
  }
  __device__ void finish() const {}
};

// ---- flooding ----------------------------------------------------------------------------------

/// An array of a known capacity with what FloodQueue asks of a list.
template <class T>
struct FixedList {
  T* items;
  int64_t n;

  __device__ int64_t size() const { return n; }
  __device__ T& operator[](int64_t i) { return items[i]; }
  __device__ const T& operator[](int64_t i) const { return items[i]; }
  __device__ void push_back(const T& item) { items[n++] = item; }
  __device__ void pop_back() { --n; }
  __device__ void clear() { n = 0; }
};

template <class Energy>
struct CountPixels {
  Flood<Energy> job;
  int64_t* n_pixels;
  __device__ void operator()(int64_t component) const {
    int64_t n = 0;
    for (int64_t i = job.first_of_list[component]; i < job.end_of(component); ++i) {
      n += job.runs.length(job.list[i]);
    }
    n_pixels[component] = n;
  }
};

/// Each pixel is pushed once, so a component's queue has room for its pixels.
template <class Energy>
struct FloodAlone {
  Flood<Energy> job;
  const int64_t* first;  ///< of a component's scratch
  FloodEntry* heap;
  FloodPixel* line;
  __device__ void operator()(int64_t component) const {
    FloodQueue<FixedList> queue{{heap + first[component], 0}, {line + first[component], 0}};
    job(component, queue);
  }
};

}  // namespace cellpost::cuda
