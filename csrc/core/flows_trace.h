// Following a flow field: where a pixel comes to rest after `n_steps` Euler steps.
//
// The maths is written once over a lane type F: float for CUDA and the portable CPU path, a SIMD
// pack for the AVX2 and AVX-512 paths (cpu/simd.h). Every operation is a single IEEE operation
// (explicit fma, contraction switched off), so that all of them give the same bits.
//
// Two sampling rules:
//   cellpose  positions are kept normalised to [-1, 1] and sampled as torch's grid_sample does with
//             align_corners=False: at x*L/(L-1) - 0.5, a shift that depends on the image size.
//             Bit-identical to Cellpose (Stringer et al., Nature Methods 2021) on the CPU.
//   centered  positions are kept as displacement from the start pixel and sampled where they are:
//             the answer depends neither on the image size nor on the position in the image.
//
// The field is stored interleaved, (x, y) in 2D and (x, y, z, 0) in 3D, with a border of zeros, so
// that no sample needs a bounds test and one wide load brings two neighbouring corners.
#pragma once

#include <cmath>

#include "core/image.h"

namespace cellpost {

enum class Sampling : int { cellpose = 0, centered = 1 };

/// Marks in an end image: not a point, and a point that left the window before its last step.
constexpr int64_t kNoPoint = -1;
constexpr int64_t kEscaped = -2;
constexpr int64_t kPending = 0;

/// The constants of one axis, in the order x, y, z.
struct TraceAxis {
  float half;        ///< L / 2
  float length;      ///< L
  float last;        ///< L - 1
  float flow_scale;  ///< pixels to state units; 0 on an axis of length 1, where nothing moves
  int32_t offset;    ///< first coordinate of the window
  int32_t lowest;    ///< lowest and highest cell corner that may be sampled
  int32_t highest;
};

struct Trace {
  const float* field;  ///< padded, interleaved
  int64_t pitch_y;     ///< floats between rows, and between planes
  int64_t pitch_z;
  TraceAxis axis[3];
  int64_t n_steps;
};

CELLPOST_FN TraceAxis make_axis(int64_t length, int64_t offset, int64_t extent, Sampling rule) {
  TraceAxis a;
  a.length = static_cast<float>(length);
  a.half = a.length / 2.0f;
  a.last = static_cast<float>(length - 1);
  const double scale = rule == Sampling::cellpose ? 2.0 / static_cast<double>(length - 1) : 1.0;
  a.flow_scale = length > 1 ? static_cast<float>(scale) : 0.0f;
  a.offset = static_cast<int32_t>(offset);
  a.lowest = static_cast<int32_t>(offset == 0 ? -1 : offset);
  a.highest = static_cast<int32_t>(offset + extent == length ? length - 1 : offset + extent - 2);
  return a;
}

// ---- lane operations for F = float; the packs overload the same names --------------------------

CELLPOST_FN float lane_fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}
CELLPOST_FN float lane_floor(float v) { return floorf(v); }
/// NaN becomes `low`, so that it never reaches an integer cast.
CELLPOST_FN float lane_clamp(float v, float low, float high) {
  return !(v > low) ? low : (v > high ? high : v);
}
CELLPOST_FN int32_t lane_to_int(float v) { return static_cast<int32_t>(v); }
CELLPOST_FN float lane_to_float(int32_t v) { return static_cast<float>(v); }
CELLPOST_FN bool lane_outside(int32_t v, int32_t low, int32_t high) { return v < low || v > high; }
CELLPOST_FN bool lane_any(bool m) { return m; }

template <class F>
struct LaneOf;
template <>
struct LaneOf<float> {
  using Int = int32_t;
  using Mask = bool;
  static CELLPOST_FN float splat(float v) { return v; }
};

/// Field vectors at two neighbouring corners a = (.., x) and b = (.., x + 1).
CELLPOST_FN void load_corners(const float* field, int64_t pitch, int32_t row, int32_t col,
                              float (&a)[2], float (&b)[2]) {
  const float* p = field + row * pitch + 2 * static_cast<int64_t>(col);
  a[0] = p[0], a[1] = p[1], b[0] = p[2], b[1] = p[3];
}
CELLPOST_FN void load_corners(const float* field, int64_t pitch_z, int64_t pitch_y, int32_t plane,
                              int32_t row, int32_t col, float (&a)[3], float (&b)[3]) {
  const float* p = field + plane * pitch_z + row * pitch_y + 4 * static_cast<int64_t>(col);
  for (int c = 0; c < 3; ++c) a[c] = p[c], b[c] = p[4 + c];
}

// ---- the step ----------------------------------------------------------------------------------

/// State of a point: normalised position (cellpose) or displacement from `start` (centered).
template <class F, int N>
struct TraceState {
  F at[N];
};

template <int N, Sampling S, class F>
CELLPOST_FN TraceState<F, N> trace_start(const Trace& trace,
                                         const typename LaneOf<F>::Int (&start)[N]) {
  TraceState<F, N> s;
  for (int k = 0; k < N; ++k) {
    const TraceAxis& axis = trace.axis[k];
    if (S == Sampling::cellpose && axis.last > 0.0f) {
      s.at[k] = lane_to_float(start[k]) / axis.last * 2.0f - 1.0f;
    } else {
      s.at[k] = LaneOf<F>::splat(0.0f);
    }
  }
  return s;
}

/// One Euler step. Returns the lanes whose sample lies outside the window; these do not move.
template <int N, Sampling S, class F>
CELLPOST_FN typename LaneOf<F>::Mask trace_step(const Trace& trace,
                                                const typename LaneOf<F>::Int (&start)[N],
                                                TraceState<F, N>& state) {
  using Lane = LaneOf<F>;
  using Int = typename Lane::Int;
  typename Lane::Mask outside{};
  F far[N], near[N];  // weights of the corner at index + 1 and at the index itself
  Int index[N];       // into the padded field
  for (int k = 0; k < N; ++k) {
    const TraceAxis& axis = trace.axis[k];
    F x;
    if (S == Sampling::centered) {
      x = state.at[k];
    } else if (N == 2) {
      x = lane_fma(state.at[k] + 1.0f, Lane::splat(axis.half), Lane::splat(-0.5f));
    } else {  // torch samples volumes with other, unfused arithmetic
      x = ((state.at[k] + 1.0f) * axis.length - 1.0f) / 2.0f;
    }
    const F base = lane_floor(x);
    far[k] = x - base;
    near[k] = (N == 2 || S == Sampling::centered) ? 1.0f - far[k] : (base + 1.0f) - x;
    Int corner = lane_to_int(base);
    if (S == Sampling::centered) corner = corner + start[k];
    outside = outside | lane_outside(corner, axis.lowest, axis.highest);
    index[k] = corner + (1 - axis.offset);
  }
  if (lane_any(outside)) return outside;

  F flow[N];
  if constexpr (N == 2) {
    F nw[2], ne[2], sw[2], se[2];
    load_corners(trace.field, trace.pitch_y, index[1], index[0], nw, ne);
    load_corners(trace.field + trace.pitch_y, trace.pitch_y, index[1], index[0], sw, se);
    const F w_nw = near[1] * near[0], w_ne = near[1] * far[0];
    const F w_sw = far[1] * near[0], w_se = far[1] * far[0];
    for (int c = 0; c < 2; ++c) {
      flow[c] = lane_fma(se[c], w_se, lane_fma(sw[c], w_sw, lane_fma(ne[c], w_ne, nw[c] * w_nw)));
    }
  } else {
    for (int c = 0; c < N; ++c) flow[c] = Lane::splat(0.0f);
    for (int dz = 0; dz < 2; ++dz) {
      for (int dy = 0; dy < 2; ++dy) {
        F west[3], east[3];
        load_corners(trace.field + dz * trace.pitch_z + dy * trace.pitch_y, trace.pitch_z,
                     trace.pitch_y, index[2], index[1], index[0], west, east);
        const F wz = dz ? far[2] : near[2], wy = dy ? far[1] : near[1];
        const F w_west = near[0] * wy * wz, w_east = far[0] * wy * wz;
        for (int c = 0; c < N; ++c) flow[c] = flow[c] + west[c] * w_west;
        for (int c = 0; c < N; ++c) flow[c] = flow[c] + east[c] * w_east;
      }
    }
  }
  for (int k = 0; k < N; ++k) {
    const F moved = state.at[k] + flow[k];
    if (S == Sampling::cellpose) {
      state.at[k] = lane_clamp(moved, Lane::splat(-1.0f), Lane::splat(1.0f));
    } else {
      const F origin = lane_to_float(start[k]);
      state.at[k] = lane_clamp(moved, 0.0f - origin, trace.axis[k].last - origin);
    }
  }
  return outside;
}

/// Final position in pixels of the whole image. Truncating it gives the end bin.
template <int N, Sampling S>
CELLPOST_FN void trace_end(const Trace& trace, const int32_t (&start)[N],
                           const TraceState<float, N>& state, float (&end)[N]) {
  for (int k = 0; k < N; ++k) {
    if (S == Sampling::cellpose) {
      end[k] = (state.at[k] + 1.0f) * 0.5f * trace.axis[k].last;
    } else {
      // Rounding start + displacement must not carry the point into the next pixel, or the end bin
      // would depend on where in the image the cell lies.
      const float base = floorf(state.at[k]);
      const float pixel = static_cast<float>(start[k] + static_cast<int32_t>(base));
      const float sum = pixel + (state.at[k] - base);
      end[k] = sum < pixel + 1.0f ? sum : nextafterf(pixel + 1.0f, 0.0f);
    }
  }
}

template <class F, int N>
CELLPOST_FN bool same_state(const TraceState<F, N>& a, const TraceState<F, N>& b) {
  bool same = true;
  for (int k = 0; k < N; ++k) same = same && a.at[k] == b.at[k];
  return same;
}

/// Steps until a checkpoint is renewed; a second checkpoint is taken at powers of two.
constexpr int64_t kCheckpointEvery = 16;

/// Follows one point. Positions soon enter a cycle of some period; when a position equals an
/// earlier checkpoint exactly, only the rest of the remaining steps modulo the period is walked,
/// which gives the same bits as walking them all. Returns false if the point left the window.
template <int N, Sampling S>
CELLPOST_FN bool follow_point(const Trace& trace, const int32_t (&start)[N], float (&end)[N]) {
  TraceState<float, N> state = trace_start<N, S, float>(trace, start);
  TraceState<float, N> recent = state, power = state;
  int64_t recent_step = 0, power_step = 0, step = 0, left = trace.n_steps;
  bool searching = true;
  while (left > 0) {
    if (trace_step<N, S, float>(trace, start, state)) return false;
    ++step, --left;
    if (!searching) continue;
    const bool near_hit = same_state(state, recent);
    if (near_hit || same_state(state, power)) {
      left %= step - (near_hit ? recent_step : power_step);
      searching = false;
    } else {
      if (step % kCheckpointEvery == 0) recent = state, recent_step = step;
      if ((step & (step - 1)) == 0) power = state, power_step = step;
    }
  }
  trace_end<N, S>(trace, start, state, end);
  return true;
}

// ---- the field ---------------------------------------------------------------------------------

/// Fills the padded field and marks the foreground. Runs over the padded grid of the window.
template <int N>
struct PrepareField {
  FloatView flow;  ///< channels dY, dX or dZ, dY, dX
  FloatView cell;  ///< foreground where finite and above the threshold
  float threshold;
  Window window;
  TraceAxis axis[3];
  float* field;
  int64_t pitch_y, pitch_z;
  IndexImage ends;

  CELLPOST_FN void operator()(int64_t row, int64_t col) const {
    constexpr int kWidth = N == 2 ? 2 : 4;
    const int64_t rows_per_plane = window.shape.y + 2;
    const int64_t plane = N == 2 ? 0 : row / rows_per_plane;
    const int64_t line = N == 2 ? row : row % rows_per_plane;
    const int64_t z = N == 2 ? 0 : plane - 1, y = line - 1, x = col - 1;
    float* out = field + plane * pitch_z + line * pitch_y + kWidth * col;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (window.shape.contains(z, y, x)) {
      const float p = cell.at(0, z, y, x);
      const bool foreground = is_finite(p) && p > threshold;
      ends.set((z * window.shape.y + y) * window.shape.x + x, foreground ? kPending : kNoPoint);
      if (foreground) {
        bool finite = true;
        for (int k = 0; k < N; ++k) {
          v[k] = flow.at(N - 1 - k, z, y, x);
          finite = finite && is_finite(v[k]);
        }
        for (int k = 0; k < N; ++k) v[k] = finite ? v[k] / 5.0f * axis[k].flow_scale : 0.0f;
      }
    }
    for (int c = 0; c < kWidth; ++c) out[c] = v[c];
  }
};

/// What becomes of a followed point: its end bin goes into the end image, or, where `points` is
/// given, its end position into row n_points of the list (the end image then holds its index).
struct TraceOutput {
  IndexImage ends;
  float* points;  ///< (N, n_points) in the order z, y, x; or null
  int64_t n_points;
  Window window;

  template <int N>
  CELLPOST_FN void put(int64_t pixel, bool inside, const float (&end)[N]) const {
    if (points) {
      const int64_t i = ends.get(pixel);
      for (int k = 0; k < N; ++k) {
        points[(N - 1 - k) * n_points + i] = inside ? end[k] : bits_to_float(0x7fc00000u);
      }
      return;
    }
    int64_t bin = kEscaped;
    if (inside) {
      bin = N == 3 ? static_cast<int64_t>(end[N - 1]) : 0;
      bin = (bin * window.global.y + static_cast<int64_t>(end[1])) * window.global.x +
            static_cast<int64_t>(end[0]);
    }
    ends.set(pixel, bin);
  }
};

/// Portable path, one pixel an item: CUDA and CPUs without AVX2.
template <int N, Sampling S>
struct FollowPixel {
  Trace trace;
  TraceOutput output;

  CELLPOST_FN void operator()(int64_t row, int64_t col) const {
    const Window& w = output.window;
    const int64_t pixel = row * w.shape.x + col;
    if (output.ends.get(pixel) == kNoPoint) return;
    int32_t start[N];
    float end[N] = {};
    start[0] = static_cast<int32_t>(col + w.offset[2]);
    start[1] = static_cast<int32_t>((N == 2 ? row : row % w.shape.y) + w.offset[1]);
    if constexpr (N == 3) start[2] = static_cast<int32_t>(row / w.shape.y + w.offset[0]);
    const bool inside = follow_point<N, S>(trace, start, end);
    output.put<N>(pixel, inside, end);
  }
};

}  // namespace cellpost
