// Compiled once for each instruction set, with CELLPOST_ISA naming it. Nothing here may be shared
// with other sources out of line (no standard containers): the linker would merge the copies, and
// a baseline CPU could run into AVX-512 code.
#include "cpu/flows_kernels.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__AVX2__)
#include "cpu/simd.h"
#endif

#define CELLPOST_STRING_(x) #x
#define CELLPOST_STRING(x) CELLPOST_STRING_(x)

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

// ---- following ---------------------------------------------------------------------------------

/// Walks over the marked pixels of a block in raster order.
struct BlockCursor {
  const TraceOutput& output;
  const Block& block;
  int64_t row, col;

  bool next() {
    const int64_t width = output.window.shape.x;
    for (; row < block.row_end; ++row) {
      for (++col; col < block.col_end; ++col) {
        if (output.ends.get(row * width + col) != kNoPoint) return true;
      }
      col = block.col_begin - 1;
    }
    return false;
  }
};

#if defined(__AVX2__)

/// A pack of points; a lane whose point is done takes the next one at once. The checkpoints are
/// those of follow_point, so that the bits are, too.
template <int N, Sampling S>
class PackTracer {
  static constexpr int kWidth = LaneOf<Pack>::kWidth;
  using Mask = LaneOf<Pack>::Mask;

 public:
  PackTracer(const Trace& trace, const TraceOutput& output, const Block& block)
      : trace_(trace),
        output_(output),
        cursor_{output, block, block.row_begin, block.col_begin - 1} {}

  int64_t run() {
    for (int64_t& pixel : pixel_) pixel = -1;
    for (int i = 0; i < kWidth; ++i) refill(i);
    while (n_active_ > 0) {
      Pack recent[N], power[N];
      TraceState<Pack, N> state;
      PackInt start[N], step, left, searching;
      for (int k = 0; k < N; ++k) {
        state.at[k] = Pack::load(at_[k]);
        recent[k] = Pack::load(recent_[k]);
        power[k] = Pack::load(power_[k]);
        start[k] = PackInt::load(start_[k]);
      }
      step = PackInt::load(step_), left = PackInt::load(left_),
      searching = PackInt::load(searching_);
      unsigned events = 0, escaped = 0, hits = 0;
      while (events == 0) {
        const Mask outside = trace_step<N, S, Pack>(trace_, start, state);
        if (lane_any(outside)) {  // no lane has moved
          events = escaped = outside.bits();
          break;
        }
        step = step + 1;
        left = left + -1;
        Mask near_hit = state.at[0] == recent[0], far_hit = state.at[0] == power[0];
        for (int k = 1; k < N; ++k) {
          near_hit = near_hit & (state.at[k] == recent[k]);
          far_hit = far_hit & (state.at[k] == power[k]);
        }
        hits = (near_hit | far_hit).bits();
        events = hits | is_zero(left).bits();
        // `searching` is 0 or, once the cycle is known, a bit that keeps the sums from being 0.
        const PackInt round = (step & int32_t{kCheckpointEvery - 1}) + searching;
        const PackInt power_of_two = (step & (step + -1)) + searching;
        const Mask renew_recent = is_zero(round), renew_power = is_zero(power_of_two);
        if (events == 0) {
          for (int k = 0; k < N; ++k) {
            recent[k] = select(renew_recent, state.at[k], recent[k]);
            power[k] = select(renew_power, state.at[k], power[k]);
          }
        } else {
          near_hits_ = near_hit.bits();
          const unsigned recent_due = renew_recent.bits() & ~hits;
          const unsigned power_due = renew_power.bits() & ~hits;
          store(state, recent, power, step, left);
          renew(recent_due, recent_);
          renew(power_due, power_);
        }
      }
      if (escaped) store(state, recent, power, step, left);
      for (unsigned rest = events; rest != 0; rest &= rest - 1) {
        settle(__builtin_ctz(rest), hits, escaped);
      }
    }
    return n_points_;
  }

 private:
  void store(const TraceState<Pack, N>& state, const Pack (&recent)[N], const Pack (&power)[N],
             PackInt step, PackInt left) {
    for (int k = 0; k < N; ++k) {
      state.at[k].store(at_[k]);
      recent[k].store(recent_[k]);
      power[k].store(power_[k]);
    }
    step.store(step_), left.store(left_);
  }

  void renew(unsigned lanes, float (&checkpoint)[N][kWidth]) {
    for (; lanes != 0; lanes &= lanes - 1) {
      const int i = __builtin_ctz(lanes);
      for (int k = 0; k < N; ++k) checkpoint[k][i] = at_[k][i];
    }
  }

  void settle(int i, unsigned hits, unsigned escaped) {
    if (escaped >> i & 1u) {
      finish(i, false);
      return;
    }
    if (hits >> i & 1u) {
      const int32_t before = step_[i] - 1;
      const int32_t checkpoint = near_hits_ >> i & 1u
                                     ? before - before % static_cast<int32_t>(kCheckpointEvery)
                                 : before == 0 ? 0
                                               : int32_t{1} << (31 - __builtin_clz(before));
      left_[i] %= step_[i] - checkpoint;
      stop_searching(i);
    }
    if (left_[i] == 0) finish(i, true);
  }

  void stop_searching(int i) {
    searching_[i] = 1 << 30;
    for (int k = 0; k < N; ++k) recent_[k][i] = power_[k][i] = bits_to_float(0x7fc00000u);
  }

  void finish(int i, bool inside) {
    if (pixel_[i] >= 0) {
      int32_t start[N];
      TraceState<float, N> state;
      float end[N];
      for (int k = 0; k < N; ++k) start[k] = start_[k][i], state.at[k] = at_[k][i];
      trace_end<N, S>(trace_, start, state, end);
      output_.put<N>(pixel_[i], inside, end);
      --n_active_;
    }
    refill(i);
  }

  /// The lane takes the next point of the block, or idles on its last one.
  void refill(int i) {
    while (cursor_.next()) {
      ++n_points_;
      const Window& w = output_.window;
      int32_t start[N];
      start[0] = static_cast<int32_t>(cursor_.col + w.offset[2]);
      start[1] =
          static_cast<int32_t>((N == 2 ? cursor_.row : cursor_.row % w.shape.y) + w.offset[1]);
      if constexpr (N == 3) start[2] = static_cast<int32_t>(cursor_.row / w.shape.y + w.offset[0]);
      const auto state = trace_start<N, S, float>(trace_, start);
      for (int k = 0; k < N; ++k) {
        start_[k][i] = start[k];
        at_[k][i] = recent_[k][i] = power_[k][i] = state.at[k];
      }
      pixel_[i] = cursor_.row * w.shape.x + cursor_.col;
      step_[i] = 0;
      left_[i] = static_cast<int32_t>(trace_.n_steps);
      searching_[i] = 0;
      if (trace_.n_steps > 0) {
        ++n_active_;
        return;
      }
      float end[N];
      trace_end<N, S>(trace_, start, state, end);
      output_.put<N>(pixel_[i], true, end);
    }
    pixel_[i] = -1;
    idle(i);
  }

  /// An idle lane repeats an active one, since its samples must lie in the window, too.
  void idle(int i) {
    int active = 0;
    while (active < kWidth && pixel_[active] < 0) ++active;
    if (active == kWidth) return;
    for (int k = 0; k < N; ++k) start_[k][i] = start_[k][active], at_[k][i] = at_[k][active];
    step_[i] = 0;
    left_[i] = INT32_MAX;
    stop_searching(i);
  }

  alignas(64) float at_[N][kWidth], recent_[N][kWidth], power_[N][kWidth];
  alignas(64) int32_t start_[N][kWidth], step_[kWidth], left_[kWidth], searching_[kWidth];
  int64_t pixel_[kWidth];
  const Trace& trace_;
  const TraceOutput& output_;
  BlockCursor cursor_;
  unsigned near_hits_ = 0;
  int n_active_ = 0;
  int64_t n_points_ = 0;
};

template <int N, Sampling S>
int64_t trace_block(const Trace& trace, const TraceOutput& output, const Block& block) {
  return PackTracer<N, S>(trace, output, block).run();
}

#else

template <int N, Sampling S>
int64_t trace_block(const Trace& trace, const TraceOutput& output, const Block& block) {
  const FollowPixel<N, S> follow{trace, output};
  int64_t n_points = 0;
  for (BlockCursor cursor{output, block, block.row_begin, block.col_begin - 1}; cursor.next();) {
    follow(cursor.row, cursor.col);
    ++n_points;
  }
  return n_points;
}

#endif

// ---- diffusion ---------------------------------------------------------------------------------

/// Scratch that grows and is never shrunk while one piece of work runs.
template <class T>
struct Scratch {
  T* data = nullptr;
  int64_t size = 0;

  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data); }

  T* zeros(int64_t n) {
    if (n > size) {
      std::free(data);
      const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
      data = static_cast<T*>(std::aligned_alloc(64, bytes));
      size = data ? n : 0;
      if (!data) throw std::bad_alloc();
    }
    std::memset(data, 0, static_cast<size_t>(n) * sizeof(T));
    return data;
  }
};

/// One object at a time in a copy of its bounding box with a border of zeros: outside the mask the
/// heat stays 0, and adding 0 changes no bits, so no neighbour has to be tested.
template <int N, class Real>
void diffuse_objects(const HeatJob<N, Real>& job, int64_t begin, int64_t end) {
  constexpr int64_t kLanes = 64 / sizeof(Real);
  Scratch<Real> scratch;
  for (int64_t i = begin; i < end; ++i) {
    const int32_t id = job.ids[i];
    const ObjectTable& t = job.table;
    const Shape& shape = job.shape;
    const int64_t nz = t.extent(id, 0), ny = t.extent(id, 1), nx = t.extent(id, 2);
    const int64_t width = (nx + kLanes - 1) / kLanes * kLanes;
    const int64_t row = width + 2, plane = row * (ny + 2);
    const int64_t n = plane * (N == 3 ? nz + 2 : 1) + kLanes;
    Real* heat = scratch.zeros(3 * n);
    Real* next = heat + n;
    Real* inside = heat + 2 * n;  // 1 in the mask, else 0
    const auto row_at = [&](Real* image, int64_t z, int64_t y) {
      return image + (N == 3 ? (z + 1) * plane : 0) + (y + 1) * row + 1;
    };
    const auto labels_at = [&](int64_t z, int64_t y) {
      return ((t.low[0][id] + z) * shape.y + t.low[1][id] + y) * shape.x + t.low[2][id];
    };
    for (int64_t z = 0; z < nz; ++z) {
      for (int64_t y = 0; y < ny; ++y) {
        const int32_t* line = job.labels + labels_at(z, y);
        Real* out = row_at(inside, z, y);
        for (int64_t x = 0; x < nx; ++x) out[x] = line[x] == id ? Real(1) : Real(0);
      }
    }
    const int64_t c = job.centre[id];
    const int64_t centre =
        row_at(heat, c / shape.x / shape.y - t.low[0][id], c / shape.x % shape.y - t.low[1][id]) -
        heat + c % shape.x - t.low[2][id];
    for (int64_t step = 0; step < job.n_steps; ++step) {
      heat[centre] += Real(1);
      for (int64_t z = 0; z < nz; ++z) {
        for (int64_t y = 0; y < ny; ++y) {
          const Real* __restrict from = row_at(heat, z, y);
          const Real* __restrict mask = row_at(inside, z, y);
          Real* __restrict to = row_at(next, z, y);
          for (int64_t x = 0; x < width; ++x) {
            to[x] = heat_sum<N>(from + x, row, plane) * mask[x];
          }
        }
      }
      Real* const other = heat;
      heat = next;
      next = other;
    }
    for (int64_t z = 0; z < nz; ++z) {
      for (int64_t y = 0; y < ny; ++y) {
        const Real* from = row_at(heat, z, y);
        const Real* mask = row_at(inside, z, y);
        Real* out = job.heat + labels_at(z, y);
        for (int64_t x = 0; x < nx; ++x) {
          if (mask[x] != Real(0)) out[x] = from[x];
        }
      }
    }
  }
}

}  // namespace

Kernels kernels() {
  return {CELLPOST_STRING(CELLPOST_ISA),
          {{trace_block<2, Sampling::cellpose>, trace_block<2, Sampling::centered>},
           {trace_block<3, Sampling::cellpose>, trace_block<3, Sampling::centered>}},
          diffuse_objects<2, double>,
          diffuse_objects<2, float>,
          diffuse_objects<3, double>,
          diffuse_objects<3, float>};
}

}  // namespace cellpost::cpu::CELLPOST_ISA
