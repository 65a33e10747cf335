// Flow targets and flow error: what the flow field of a finished mask would be.
//
// Heat is put into each mask's centre `niter` times, and after each time spreads: every pixel of
// the mask becomes the mean of its 3 x 3 (7 in 3D) neighbours, those outside the mask counting as
// zero. The flow is the normalised gradient of the heat. The error of a mask is the mean squared
// difference between this flow and the network's (Cellpose, Stringer et al. 2021).
//
// The order of each sum is fixed: on a symmetric mask the gradient along the axis of symmetry is
// pure rounding, is then normalised to length 1, and moves the error by up to a percent.
#pragma once

#include <cmath>

#include "core/labels.h"

namespace cellpost {

/// Images with more padded pixels than this are diffused in float32, smaller ones in float64.
constexpr int64_t kDoubleUpTo = 40000000;

CELLPOST_FN bool diffuses_in_double(const Shape& s) {
  const int64_t pad = 2;
  return (s.ndim == 3 ? s.z + pad : 1) * (s.y + pad) * (s.x + pad) <= kDoubleUpTo;
}

/// Diffusion steps for the objects' extents h, w (d): 2 (h + w + 2), in 3D 6 (d + h + w + 3).
CELLPOST_FN int64_t diffusion_steps(const ObjectTable& table, int64_t id, int ndim) {
  const int64_t sum = table.extent(id, 1) + table.extent(id, 2);
  return ndim == 3 ? 6 * (sum + table.extent(id, 0) + 3) : 2 * (sum + 2);
}

struct MaxSteps {
  ObjectTable table;
  const int32_t* ids;
  int ndim;
  int64_t* most;
  CELLPOST_FN void operator()(int64_t i) const {
    atomic_max(most, diffusion_steps(table, ids[i], ndim));
  }
};

/// Centre of each object. 2D: its mean pixel rounded half to even, counted from the corner of the
/// bounding box, if that is in the mask, else the nearest mask pixel. 3D: the mask pixel nearest
/// the mean. Equal distances go to the first in raster order.
struct FindCentre {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  const int32_t* ids;
  int64_t* centre;  ///< by id, linear index

  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = ids[i];
    double mean[3];
    for (int k = 0; k < 3; ++k) {
      // In 3D Cellpose counts from 1 inside the box; the rounding of the mean follows from it.
      const int64_t from_corner = table.sum[k][id] - table.low[k][id] * table.size[id] +
                                  (shape.ndim == 3 ? table.size[id] : 0);
      mean[k] = static_cast<double>(from_corner) / static_cast<double>(table.size[id]);
      if (shape.ndim == 2) mean[k] = rint(mean[k]);
    }
    const int64_t corner =
        (static_cast<int64_t>(table.low[0][id]) * shape.y + table.low[1][id]) * shape.x +
        table.low[2][id];
    if (shape.ndim == 2) {
      const int64_t at =
          corner + static_cast<int64_t>(mean[1]) * shape.x + static_cast<int64_t>(mean[2]);
      if (labels[at] == id) {
        centre[id] = at;
        return;
      }
    }
    const double from = shape.ndim == 3 ? 1.0 : 0.0;
    double best = -1.0;
    for (int64_t z = 0; z < table.extent(id, 0); ++z) {
      for (int64_t y = 0; y < table.extent(id, 1); ++y) {
        for (int64_t x = 0; x < table.extent(id, 2); ++x) {
          const int64_t at = corner + (z * shape.y + y) * shape.x + x;
          if (labels[at] != id) continue;
          const double dz = static_cast<double>(z) + from - mean[0];
          const double dy = static_cast<double>(y) + from - mean[1];
          const double dx = static_cast<double>(x) + from - mean[2];
          const double far = shape.ndim == 3 ? dz * dz + dx * dx + dy * dy : dx * dx + dy * dy;
          if (best < 0.0 || far < best) best = far, centre[id] = at;
        }
      }
    }
  }
};

/// v / D for D = 7 or 9, rounded correctly, without a division: the remainder of a first guess is
/// exact, and corrects it (Markstein, IBM J. Res. Dev. 34, 1990).
template <int D, class Real>
CELLPOST_FN Real divided_by_fma(Real v) {
  constexpr Real kReciprocal = Real(1) / Real(D);
  const Real guess = v * kReciprocal;
  return fused(fused(Real(-D), guess, v), kReciprocal, guess);
}

template <int D, class Real>
CELLPOST_FN Real divided_by(Real v) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return divided_by_fma<D>(v);
#else
  return v / Real(D);  // an fma in software would be far slower
#endif
}

/// Mean over a pixel and its neighbours, summed in the fixed order. The pointers are to the pixel,
/// and to those above and below (y), in front and behind (z; not read in 2D).
template <int N, class Real>
CELLPOST_FN Real heat_mean(const Real* here, const Real* above, const Real* below,
                           const Real* front, const Real* behind) {
  Real s = here[0];
  if constexpr (N == 2) {
    s += above[0];
    s += below[0];
    s += here[-1];
    s += here[1];
    s += above[-1];
    s += above[1];
    s += below[-1];
    s += below[1];
    return divided_by<9>(s);
  } else {
    s += behind[0];
    s += front[0];
    s += below[0];
    s += above[0];
    s += here[1];
    s += here[-1];
    return divided_by<7>(s);
  }
}

/// The same where rows and planes follow at fixed distances.
template <int N, class Real>
CELLPOST_FN Real heat_mean(const Real* p, int64_t row, int64_t plane) {
  return heat_mean<N>(p, p - row, p + row, p - plane, p + plane);
}

/// Heat of the objects after diffusion, defined at pixels of kept objects only.
template <class Real>
struct Heat {
  const Real* heat;
  const int32_t* labels;
  const int32_t* map;  ///< by id; 0: the object was dropped and has no heat
  Shape shape;

  /// Unit flow (z, y, x) at a pixel of object `id`. Touching objects' heat enters, as in Cellpose.
  CELLPOST_FN void flow(int32_t id, int64_t z, int64_t y, int64_t x, double (&v)[3]) const {
    const int64_t i = (z * shape.y + y) * shape.x + x;
    v[0] = shape.ndim == 3 ? difference(id, i, z, shape.z, shape.y * shape.x) : 0.0;
    v[1] = difference(id, i, y, shape.y, shape.x);
    v[2] = difference(id, i, x, shape.x, 1);
    double sum = shape.ndim == 3 ? v[0] * v[0] + v[1] * v[1] : v[1] * v[1];
    sum += v[2] * v[2];
    const double length = 1e-60 + sqrt(sum);
    for (int k = 0; k < 3; ++k) v[k] = v[k] / length;
  }

 private:
  CELLPOST_FN Real at(int32_t id, int64_t i) const {
    const int32_t there = labels[i];
    return there == id || (there != 0 && map[there] != 0) ? heat[i] : Real(0);
  }
  /// Next minus previous along an axis, in the precision of the heat.
  CELLPOST_FN double difference(int32_t id, int64_t i, int64_t at_axis, int64_t extent,
                                int64_t stride) const {
    const Real next = at_axis + 1 < extent ? at(id, i + stride) : Real(0);
    const Real previous = at_axis > 0 ? at(id, i - stride) : Real(0);
    return static_cast<double>(next - previous);
  }
};

/// Mean squared difference over each object: row by row from the left, then the rows from the top.
template <class Real, class Flow>
struct FlowError {
  Heat<Real> heat;
  Flow dP;
  ObjectTable table;
  const int32_t* ids;
  double* error;  ///< by id

  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = ids[i];
    const Shape& shape = heat.shape;
    const int skip = 3 - shape.ndim;
    double total = 0.0;
    for (int64_t z = table.low[0][id]; z < table.high[0][id]; ++z) {
      for (int64_t y = table.low[1][id]; y < table.high[1][id]; ++y) {
        double row_sum = 0.0;
        for (int64_t x = table.low[2][id]; x < table.high[2][id]; ++x) {
          if (heat.labels[(z * shape.y + y) * shape.x + x] != id) continue;
          double v[3];
          float net[3] = {0.0f, 0.0f, 0.0f};
          heat.flow(id, z, y, x, v);
          bool finite = true;
          for (int k = skip; k < 3; ++k) {
            net[k] = dP.at(k - skip, z, y, x);
            finite = finite && is_finite(net[k]);
          }
          double square = 0.0;
          for (int k = skip; k < 3; ++k) {
            const double d = v[k] - (finite ? static_cast<double>(net[k] / 5.0f) : 0.0);
            square += d * d;
          }
          row_sum += square;
        }
        total += row_sum;
      }
    }
    error[id] = total / static_cast<double>(table.size[id]);
  }
};

struct DropByError {
  const double* error;
  const int32_t* ids;
  double threshold;
  int32_t* map;
  CELLPOST_FN void operator()(int64_t i) const {
    if (error[ids[i]] > threshold) map[ids[i]] = 0;
  }
};

/// Unit flows of all pixels as float32 planes (z,) y, x.
template <class Real>
struct WriteFlows {
  Heat<Real> heat;
  float* flows;

  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    const Shape& shape = heat.shape;
    const int64_t i = row * shape.x + x, n = shape.pixels();
    const int skip = 3 - shape.ndim;
    double v[3] = {0.0, 0.0, 0.0};
    const int32_t id = heat.labels[i];
    if (id != 0) heat.flow(id, row / shape.y, row % shape.y, x, v);
    for (int k = skip; k < 3; ++k) flows[(k - skip) * n + i] = static_cast<float>(v[k]);
  }
};

}  // namespace cellpost
