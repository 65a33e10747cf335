// Diffusion on a CUDA device: one block an object where its bounding box fits into shared memory.
#pragma once

#include "core/flows_diffusion.h"
#include "pipeline/flows.h"

namespace cellpost::cuda {

/// Shared memory of one object: two heat images of its bounding box with a border of zeros, and
/// where in them its pixels are.
template <int N, class Real>
struct SharedHeat {
  int64_t row, plane, n;

  __device__ SharedHeat(const ObjectTable& table, int64_t id)
      : row(table.extent(id, 2) + 2),
        plane(row * (table.extent(id, 1) + 2)),
        n(plane * (N == 3 ? table.extent(id, 0) + 2 : 1)) {}

  __device__ int64_t at(int64_t z, int64_t y, int64_t x) const {
    return (N == 3 ? (z + 1) * plane : 0) + (y + 1) * row + x + 1;
  }
  /// More than any block has if positions would not fit into 16 bits.
  __device__ int64_t bytes(int64_t n_pixels) const {
    if (n > 0xffff) return int64_t{1} << 40;
    return 2 * n * static_cast<int64_t>(sizeof(Real)) +
           n_pixels * static_cast<int64_t>(sizeof(uint16_t));
  }
};

/// Whether object `i` of the list takes more than `above` and at most `most` bytes.
template <int N, class Real>
struct TakesShared {
  ObjectTable table;
  const int32_t* ids;
  int64_t above, most;
  __device__ bool operator()(int64_t i) const {
    const int64_t bytes = SharedHeat<N, Real>(table, ids[i]).bytes(table.size[ids[i]]);
    return bytes > above && bytes <= most;
  }
};

template <int N, class Real>
__global__ void diffuse_in_shared(HeatJob<N, Real> job, const int32_t* list) {
  extern __shared__ double shared[];
  __shared__ int n_found;
  const int32_t id = job.ids[list[blockIdx.x]];
  const ObjectTable& t = job.table;
  const SharedHeat<N, Real> box(t, id);
  const int n = static_cast<int>(box.n), n_pixels = static_cast<int>(t.size[id]);
  const int first = static_cast<int>(threadIdx.x), stride = static_cast<int>(blockDim.x);
  Real* heat = reinterpret_cast<Real*>(shared);
  Real* next = heat + n;
  auto* position = reinterpret_cast<uint16_t*>(next + n);

  if (first == 0) n_found = 0;
  for (int i = first; i < 2 * n; i += stride) heat[i] = Real(0);
  __syncthreads();
  // The pixels come in any order: each is computed on its own.
  const int ny = static_cast<int>(t.extent(id, 1)), nx = static_cast<int>(t.extent(id, 2));
  const int n_box = static_cast<int>(t.box_pixels(id));
  const auto pixel_of = [&](int z, int y, int x) {
    return ((t.low[0][id] + z) * job.shape.y + t.low[1][id] + y) * job.shape.x + t.low[2][id] + x;
  };
  for (int i = first; i < n_box; i += stride) {
    const int x = i % nx, y = i / nx % ny, z = i / nx / ny;
    const int64_t pixel = pixel_of(z, y, x);
    if (job.labels[pixel] != id) continue;
    const auto at = static_cast<uint16_t>(box.at(z, y, x));
    position[atomicAdd(&n_found, 1)] = at;
    if (job.n_steps > 0 && pixel == job.centre[id]) heat[at] = Real(1);
  }
  const int64_t c = job.centre[id];
  const int centre = static_cast<int>(box.at(c / job.shape.x / job.shape.y - t.low[0][id],
                                             c / job.shape.x % job.shape.y - t.low[1][id],
                                             c % job.shape.x - t.low[2][id]));
  __syncthreads();
  for (int64_t left = job.n_steps; left > 0; --left) {
    for (int i = first; i < n_pixels; i += stride) {
      const int at = position[i];
      const Real mean = heat_mean<N>(heat + at, box.row, box.plane);
      // The next step's heat is put in at once, which saves a barrier.
      next[at] = at == centre && left > 1 ? mean + Real(1) : mean;
    }
    __syncthreads();
    Real* const other = heat;
    heat = next;
    next = other;
  }
  for (int i = first; i < n_pixels; i += stride) {
    const int at = position[i];
    const int plane = static_cast<int>(box.plane), row = static_cast<int>(box.row);
    const int z = N == 3 ? at / plane - 1 : 0;
    job.heat[pixel_of(z, at % plane / row - 1, at % row - 1)] = heat[at];
  }
}

// ---- objects too large for shared memory -------------------------------------------------------

/// large[id] = 1 for the objects that `takes`.
template <int N, class Real>
struct MarkLarge {
  TakesShared<N, Real> takes;
  int32_t* large;
  __device__ void operator()(int64_t i) const {
    if (takes(i)) large[takes.ids[i]] = 1;
  }
};

struct IsOfLarge {
  const int32_t* labels;
  const int32_t* large;
  __device__ bool operator()(int64_t pixel) const { return large[labels[pixel]] != 0; }
};

template <int N, class Real>
struct StartHeat {
  HeatJob<N, Real> job;
  const int64_t* pixels;
  Real* heat;
  __device__ void operator()(int64_t i) const {
    const int64_t pixel = pixels[i];
    const bool heated = job.n_steps > 0 && pixel == job.centre[job.labels[pixel]];
    heat[pixel] = heated ? Real(1) : Real(0);
  }
};

/// One step of one pixel; neighbours of another label count as zero.
template <int N, class Real>
struct StepHeat {
  HeatJob<N, Real> job;
  const int64_t* pixels;
  const Real* from;
  Real* to;
  bool heat_again;

  __device__ void operator()(int64_t i) const {
    const int64_t pixel = pixels[i];
    const Shape& s = job.shape;
    const int32_t id = job.labels[pixel];
    const int64_t x = pixel % s.x, row = pixel / s.x, y = row % s.y, z = row / s.y;
    constexpr int kPlanes = N == 3 ? 3 : 1, kMiddle = kPlanes / 2;
    Real box[kPlanes * 9];
    for (int dz = -kMiddle; dz <= kMiddle; ++dz) {
      for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
          const int64_t other = pixel + (dz * s.y + dy) * s.x + dx;
          const bool same = s.contains(z + dz, y + dy, x + dx) && job.labels[other] == id;
          box[(dz + kMiddle) * 9 + (dy + 1) * 3 + dx + 1] = same ? from[other] : Real(0);
        }
      }
    }
    const Real mean = heat_mean<N>(box + kMiddle * 9 + 4, 3, 9);
    to[pixel] = heat_again && pixel == job.centre[id] ? mean + Real(1) : mean;
  }
};

}  // namespace cellpost::cuda
