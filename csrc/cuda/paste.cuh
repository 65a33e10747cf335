// Kernels of the paste family: a block an instance.
#pragma once

#include "core/nms_overlap.h"
#include "core/paste.h"

namespace cellpost::cuda {

constexpr int kPasteThreads = 128;

static __global__ void check_crop(Crops crops, int64_t* first) {
  const int64_t i = blockIdx.x;
  const int32_t w = crops.width_of(i);
  const int64_t n = int64_t{crops.height_of(i)} * w;
  bool wrong = false;
  for (int64_t k = threadIdx.x; k < n; k += kPasteThreads) {
    wrong = wrong || !is_share(crops.at(i, k / w, k % w));
  }
  if (__syncthreads_or(wrong) && threadIdx.x == 0) atomic_min(first, i);
}

/// Gives the pixel to the instance, unless one that goes over it has it or takes it meanwhile.
static __device__ void claim(const Paste& job, int64_t pixel, int32_t id) {
  int32_t seen = atomic_load(&job.labels[pixel]);
  while (job.is_over(id, seen)) {
    const int32_t found = atomicCAS(&job.labels[pixel], seen, id);
    if (found == seen) return;
    seen = found;
  }
}

/// Threads go along a row of the window; the taps of a row are the same for all of them.
static __global__ void paste_instance(Paste job) {
  const int64_t i = blockIdx.x;
  const PasteWindow window = job.windows[i];
  if (window.empty()) return;
  const PasteAxis across = job.x_axis(i), down = job.y_axis(i);
  const BilinearSum sum = bilinear_sum(job.style, down, across);
  const auto id = static_cast<int32_t>(job.first_id + i);
  const int64_t n_x = int64_t{window.x1} - window.x0, n = (int64_t{window.y1} - window.y0) * n_x;
  for (int64_t k = threadIdx.x; k < n; k += kPasteThreads) {
    const int64_t y = window.y0 + k / n_x, x = window.x0 + k % n_x;
    const float v = job.value(i, down.tap(y - job.offset[0]), across.tap(x - job.offset[1]), sum);
    if (v >= job.threshold) claim(job, y * job.shape.x + x, id);
  }
}

/// A thread writes a word.
static __global__ void fill_instance_bits(Paste job, InstanceBits bits) {
  const int64_t i = blockIdx.x;
  const PasteWindow window = job.windows[i];
  if (window.empty()) return;
  const PasteAxis across = job.x_axis(i), down = job.y_axis(i);
  const BilinearSum sum = bilinear_sum(job.style, down, across);
  const int64_t pitch = InstanceBits::pitch(window), n = InstanceBits::n_words(window);
  for (int64_t k = threadIdx.x; k < n; k += kPasteThreads) {
    const Tap y = down.tap(window.y0 + k / pitch - job.offset[0]);
    const int64_t first = window.x0 + k % pitch * 64;
    uint64_t word = 0;
    for (int b = 0; b < 64 && first + b < window.x1; ++b) {
      const Tap x = across.tap(first + b - job.offset[1]);
      word |= static_cast<uint64_t>(job.value(i, y, x, sum) >= job.threshold) << b;
    }
    bits.words[bits.start[i] + k] = word;
  }
}

}  // namespace cellpost::cuda
