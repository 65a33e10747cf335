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
  int64_t pitch_y;     ///< floats between rows
  int32_t rows_per_plane;
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

CELLPOST_FN float lane_floor(float v) { return floorf(v); }
/// NaN becomes `low`, so that it never reaches an integer cast.
CELLPOST_FN float lane_clamp(float v, float low, float high) {
  return !(v > low) ? low : (v > high ? high : v);
}
CELLPOST_FN int32_t lane_to_int(float v) { return static_cast<int32_t>(v); }
CELLPOST_FN float lane_to_float(int32_t v) { return static_cast<float>(v); }
CELLPOST_FN bool lane_outside(int32_t v, int32_t low, int32_t high) { return v < low || v > high; }
CELLPOST_FN bool lane_any(bool m) { return m; }
template <class T>
CELLPOST_FN T select(bool m, T yes, T no) {
  return m ? yes : no;
}

template <class F>
struct LaneOf;
template <>
struct LaneOf<float> {
  using Int = int32_t;
  using Mask = bool;
  static CELLPOST_FN float splat(float v) { return v; }
};

/// Where in the field the cell with this first corner begins; rows count through all planes.
CELLPOST_FN const float* lane_address(const float* field, int64_t pitch, int32_t width, int32_t row,
                                      int32_t col) {
  return field + static_cast<int64_t>(static_cast<uint32_t>(row)) * pitch +
         static_cast<int64_t>(col) * width;
}
/// Field vectors at two neighbouring corners a[i] = (.., x) and b[i] = (.., x + 1) of two rows i,
/// which lie `offset[i]` floats on.
template <int N>
CELLPOST_FN void load_corners(const float* address, const int64_t (&offset)[2], float (&a)[2][N],
                              float (&b)[2][N]) {
  for (int i = 0; i < 2; ++i) {
    const float* p = address + offset[i];
    for (int c = 0; c < N; ++c) a[i][c] = p[c], b[i][c] = p[(N == 2 ? 2 : 4) + c];
  }
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

/// One Euler step of P states. `outside` gets the lanes whose sample lies outside the window; these
/// do not move. Several states hide each other's latencies, which is why each part loops over them.
template <int N, Sampling S, class F, int P>
CELLPOST_FN void trace_steps(const Trace& trace, const typename LaneOf<F>::Int (&start)[P][N],
                             TraceState<F, N> (&state)[P], typename LaneOf<F>::Mask (&outside)[P]) {
  using Lane = LaneOf<F>;
  using Int = typename Lane::Int;
  F far[P][N], near[P][N];  // weights of the corner at index + 1 and at the index itself
  Int index[P][N];          // into the padded field
  CELLPOST_UNROLL
  for (int p = 0; p < P; ++p) {
    outside[p] = {};
    for (int k = 0; k < N; ++k) {
      const TraceAxis& axis = trace.axis[k];
      F x;
      if (S == Sampling::centered) {
        x = state[p].at[k];
      } else if (N == 2) {
        x = lane_fma(state[p].at[k] + 1.0f, Lane::splat(axis.half), Lane::splat(-0.5f));
      } else {  // torch samples volumes with other, unfused arithmetic
        x = ((state[p].at[k] + 1.0f) * axis.length - 1.0f) / 2.0f;
      }
      const F base = lane_floor(x);
      far[p][k] = x - base;
      near[p][k] = (N == 2 || S == Sampling::centered) ? 1.0f - far[p][k] : (base + 1.0f) - x;
      Int corner = lane_to_int(base);
      if (S == Sampling::centered) corner = corner + start[p][k];
      outside[p] = outside[p] | lane_outside(corner, axis.lowest, axis.highest);
      index[p][k] = corner + (1 - axis.offset);
    }
    if (lane_any(outside[p])) {  // these lanes sample anywhere, and stay where they are
      for (int k = 0; k < N; ++k) {
        index[p][k] = select(outside[p], index[p][k] - index[p][k], index[p][k]);
      }
    }
  }
  CELLPOST_UNROLL
  for (int p = 0; p < P; ++p) {
    F flow[N];
    if constexpr (N == 2) {
      F west[2][N], east[2][N];
      load_corners(lane_address(trace.field, trace.pitch_y, 2, index[p][1], index[p][0]),
                   {0, trace.pitch_y}, west, east);
      const F w_nw = near[p][1] * near[p][0], w_ne = near[p][1] * far[p][0];
      const F w_sw = far[p][1] * near[p][0], w_se = far[p][1] * far[p][0];
      for (int c = 0; c < 2; ++c) {
        const F north = lane_fma(east[0][c], w_ne, west[0][c] * w_nw);
        flow[c] = lane_fma(east[1][c], w_se, lane_fma(west[1][c], w_sw, north));
      }
    } else {
      const auto cell = lane_address(trace.field, trace.pitch_y, 4,
                                     index[p][2] * trace.rows_per_plane + index[p][1], index[p][0]);
      for (int c = 0; c < N; ++c) flow[c] = Lane::splat(0.0f);
      CELLPOST_UNROLL
      for (int dz = 0; dz < 2; ++dz) {
        F west[2][N], east[2][N];
        const int64_t plane = dz * trace.rows_per_plane * trace.pitch_y;
        load_corners(cell, {plane, plane + trace.pitch_y}, west, east);
        CELLPOST_UNROLL
        for (int dy = 0; dy < 2; ++dy) {
          const F wz = dz ? far[p][2] : near[p][2], wy = dy ? far[p][1] : near[p][1];
          const F w_west = near[p][0] * wy * wz, w_east = far[p][0] * wy * wz;
          for (int c = 0; c < N; ++c) flow[c] = flow[c] + west[dy][c] * w_west;
          for (int c = 0; c < N; ++c) flow[c] = flow[c] + east[dy][c] * w_east;
        }
      }
    }
    const bool any_outside = lane_any(outside[p]);
    for (int k = 0; k < N; ++k) {
      F moved = state[p].at[k] + flow[k];
      if (S == Sampling::cellpose) {
        moved = lane_clamp(moved, Lane::splat(-1.0f), Lane::splat(1.0f));
      } else {
        const F origin = lane_to_float(start[p][k]);
        moved = lane_clamp(moved, 0.0f - origin, trace.axis[k].last - origin);
      }
      state[p].at[k] = any_outside ? select(outside[p], state[p].at[k], moved) : moved;
    }
  }
}

/// One step of one point; false if its sample lies outside the window.
template <int N, Sampling S>
CELLPOST_FN bool trace_step(const Trace& trace, const int32_t (&start)[1][N],
                            TraceState<float, N> (&state)[1]) {
  bool outside[1];
  trace_steps<N, S, float, 1>(trace, start, state, outside);
  return !outside[0];
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
  TraceState<float, N> state[1] = {trace_start<N, S, float>(trace, start)};
  TraceState<float, N> recent = state[0], power = state[0];
  int32_t from[1][N];
  for (int k = 0; k < N; ++k) from[0][k] = start[k];
  int64_t recent_step = 0, power_step = 0, step = 0, left = trace.n_steps;
  bool searching = true;
  while (left > 0) {
    if (!trace_step<N, S>(trace, from, state)) return false;
    ++step, --left;
    if (!searching) continue;
    const bool near_hit = same_state(state[0], recent);
    if (near_hit || same_state(state[0], power)) {
      left %= step - (near_hit ? recent_step : power_step);
      searching = false;
    } else {
      if (step % kCheckpointEvery == 0) recent = state[0], recent_step = step;
      if ((step & (step - 1)) == 0) power = state[0], power_step = step;
    }
  }
  trace_end<N, S>(trace, start, state[0], end);
  return true;
}

// ---- the field ---------------------------------------------------------------------------------

/// Foreground by a map: finite and above the threshold.
template <class View>
struct AboveThreshold {
  View map;
  float threshold;
  CELLPOST_FN bool inside(int64_t z, int64_t y, int64_t x) const {
    const float p = map.at(0, z, y, x);
    return is_finite(p) && p > threshold;
  }
};

/// Fills the padded field and marks the foreground. Runs over the padded grid of the window.
template <int N, class Flow, class Foreground>
struct PrepareField {
  Flow flow;  ///< channels dY, dX or dZ, dY, dX
  Foreground foreground;
  Window window;
  TraceAxis axis[3];
  float* field;
  int64_t pitch_y;
  IndexImage ends;

  CELLPOST_FN void operator()(int64_t row, int64_t col) const {
    constexpr int kWidth = N == 2 ? 2 : 4;
    const int64_t rows_per_plane = window.shape.y + 2;
    const int64_t plane = N == 2 ? 0 : row / rows_per_plane;
    const int64_t line = N == 2 ? row : row % rows_per_plane;
    const int64_t z = N == 2 ? 0 : plane - 1, y = line - 1, x = col - 1;
    float* out = field + row * pitch_y + kWidth * col;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (window.shape.contains(z, y, x)) {
      const bool inside = foreground.inside(z, y, x);
      ends.set((z * window.shape.y + y) * window.shape.x + x, inside ? kPending : kNoPoint);
      if (inside) {
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
