// Compiled once for each instruction set; see flows_trace_kernels.cpp on what may stand here.
#include "cpu/flows_kernels.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "cpu/kernels.h"

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

/// Scratch that grows and is never shrunk while one piece of work runs.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  template <class T>
  T* zeros(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      size_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
    }
    std::memset(data_, 0, bytes);
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// One step of n positions, border included: `inside` is 1 in the mask, else 0.
template <int N, class Real>
void diffuse_step(const Real* __restrict from, const Real* __restrict inside, Real* __restrict to,
                  int64_t n, int64_t row, int64_t plane) {
  for (int64_t i = 0; i < n; ++i) to[i] = heat_mean<N>(from + i, row, plane) * inside[i];
}

/// An object in a copy of its bounding box with a border of zeros: outside the mask the heat stays
/// 0, and adding 0 changes no bits, so no neighbour has to be tested. Rows begin at a cache line,
/// and the right border of one is the left border of the next.
template <int N, class Real>
void diffuse_in_box(const HeatJob<N, Real>& job, int32_t id, Scratch& scratch) {
  constexpr int64_t kLanes = 64 / sizeof(Real);
  const auto whole_lines = [](int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; };
  const ObjectTable& t = job.table;
  const Shape& shape = job.shape;
  const int64_t nz = t.extent(id, 0), ny = t.extent(id, 1), nx = t.extent(id, 2);
  const int64_t row = whole_lines(nx + 1), plane = row * (ny + 2);
  const int64_t first = kLanes + row + (N == 3 ? plane : 0);
  const int64_t n_inner = whole_lines((nz - 1) * plane + (ny - 1) * row + nx);
  const int64_t n = 2 * first + n_inner;
  Real* heat = scratch.zeros<Real>(3 * n);
  Real* next = heat + n;
  Real* inside = heat + 2 * n;
  /// Calls visit(position, pixel) for the pixels of the mask.
  const auto for_each_pixel = [&](const auto& visit) {
    for (int64_t z = 0; z < nz; ++z) {
      for (int64_t y = 0; y < ny; ++y) {
        const int64_t line =
            ((t.low[0][id] + z) * shape.y + t.low[1][id] + y) * shape.x + t.low[2][id];
        for (int64_t x = 0; x < nx; ++x) {
          if (job.labels[line + x] == id) visit(first + z * plane + y * row + x, line + x);
        }
      }
    }
  };
  int64_t centre = first;
  for_each_pixel([&](int64_t at, int64_t pixel) {
    inside[at] = Real(1);
    if (pixel == job.centre[id]) centre = at;
  });
  for (int64_t step = 0; step < job.n_steps; ++step) {
    heat[centre] += Real(1);
    diffuse_step<N>(heat + first, inside + first, next + first, n_inner, row, plane);
    Real* const other = heat;
    heat = next;
    next = other;
  }
  for_each_pixel([&](int64_t at, int64_t pixel) { job.heat[pixel] = heat[at]; });
}

/// An object too large for a copy, or scattered over a large box: in place in the heat image, row
/// by row over the span of its pixels. What the rows were before the step is kept for as long as
/// it is needed, from a plane (in 2D a row) before the one at work to a plane after it.
template <int N, class Real>
void diffuse_in_place(const HeatJob<N, Real>& job, int32_t id) {
  const ObjectTable& t = job.table;
  const Shape& shape = job.shape;
  const int64_t ny = t.extent(id, 1), nx = t.extent(id, 2), n_rows = t.extent(id, 0) * ny;
  const int64_t lag = N == 3 ? ny : 1, n_kept = 2 * lag + 1, width = nx + 2;
  const auto pixel_of = [&](int64_t r) {
    return ((t.low[0][id] + r / ny) * shape.y + t.low[1][id] + r % ny) * shape.x + t.low[2][id];
  };
  struct Span {
    int64_t begin, end;
  };
  Scratch span_scratch, row_scratch;
  Span* const spans = span_scratch.zeros<Span>(n_rows);
  Real* const rows = row_scratch.zeros<Real>((n_kept + 1) * width);
  const Real* const nothing = rows + n_kept * width + 1;
  const auto kept = [&](int64_t r) { return rows + r % n_kept * width + 1; };
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t line = pixel_of(r);
    Span& span = spans[r];
    for (int64_t x = 0; x < nx; ++x) {
      if (job.labels[line + x] != id) continue;
      if (span.end == 0) span.begin = x;
      span.end = x + 1;
      job.heat[line + x] = Real(0);
    }
  }
  const auto keep = [&](int64_t r) {
    Real* const to = kept(r);
    if (r >= n_kept) {
      for (int64_t x = spans[r - n_kept].begin; x < spans[r - n_kept].end; ++x) to[x] = Real(0);
    }
    const int32_t* const labels = job.labels + pixel_of(r);
    const Real* const heat = job.heat + pixel_of(r);
    for (int64_t x = spans[r].begin; x < spans[r].end; ++x) {
      to[x] = labels[x] == id ? heat[x] : Real(0);
    }
  };
  for (int64_t step = 0; step < job.n_steps; ++step) {
    job.heat[job.centre[id]] += Real(1);
    std::memset(rows, 0, static_cast<size_t>(n_kept * width) * sizeof(Real));
    for (int64_t r = 0; r < lag && r < n_rows; ++r) keep(r);
    for (int64_t r = 0; r < n_rows; ++r) {
      if (r + lag < n_rows) keep(r + lag);
      if (spans[r].end == 0) continue;
      const int64_t y = r % ny;
      const Real* const here = kept(r);
      const Real* const above = y > 0 ? kept(r - 1) : nothing;
      const Real* const below = y + 1 < ny ? kept(r + 1) : nothing;
      const Real* const front = N == 3 && r >= ny ? kept(r - ny) : nothing;
      const Real* const behind = N == 3 && r + ny < n_rows ? kept(r + ny) : nothing;
      const int32_t* const labels = job.labels + pixel_of(r);
      Real* const heat = job.heat + pixel_of(r);
      for (int64_t x = spans[r].begin; x < spans[r].end; ++x) {
        const Real mean = heat_mean<N>(here + x, above + x, below + x, front + x, behind + x);
        if (labels[x] == id) heat[x] = mean;
      }
    }
  }
}

/// The copy is the faster way unless it is mostly empty; for large boxes it takes too much memory.
bool is_copied(const ObjectTable& table, int64_t id) {
  const int64_t box = table.box_pixels(id);
  return box <= int64_t{1} << 18 && box <= 16 * table.size[id];
}

template <int N, class Real>
void diffuse_objects(const HeatJob<N, Real>& job, int64_t begin, int64_t end) {
  Scratch scratch;
  for (int64_t i = begin; i < end; ++i) {
    if (is_copied(job.table, job.ids[i])) {
      diffuse_in_box(job, job.ids[i], scratch);
    } else {
      diffuse_in_place(job, job.ids[i]);
    }
  }
}

}  // namespace

DiffusionKernels diffusion_kernels() {
  return {diffuse_objects<2, double>, diffuse_objects<2, float>, diffuse_objects<3, double>,
          diffuse_objects<3, float>};
}

}  // namespace cellpost::cpu::CELLPOST_ISA
