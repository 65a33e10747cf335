// Compiled once for each instruction set; see flows_trace_kernels.cpp on what may stand here.
#include "cpu/watershed_kernels.h"

#include <cstring>

#include "cpu/kernels.h"

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

/// Row `y` of a map, scaled, from column `first` on.
template <class Real>
void load_row(const HoverGradient& gradient, int channel, int64_t y, int64_t first, int64_t n,
              Real* to) {
  const int64_t width = gradient.shape.x;
  const FloatView& hv = gradient.hv;
  const auto at = [&](int64_t i) {
    to[i] = static_cast<Real>(gradient.value(channel, y, mirrored(first + i, width)));
  };
  const int64_t begin = first < 0 ? (-first < n ? -first : n) : 0;
  const int64_t end = first + n > width ? (width > first ? width - first : begin) : n;
  for (int64_t i = 0; i < begin; ++i) at(i);
  if (hv.dtype == DType::f32 && hv.stride[3] == 1) {
    const float* const from =
        static_cast<const float*>(hv.data) + channel * hv.stride[0] + y * hv.stride[2] + first;
    const Rescale rescale = gradient.rescale[channel];
    for (int64_t i = begin; i < end; ++i) {
      to[i] = static_cast<Real>(rescale.value(is_finite(from[i]) ? from[i] : 0.0f));
    }
  } else {
    for (int64_t i = begin; i < end; ++i) {
      to[i] = static_cast<Real>(gradient.value(channel, y, first + i));
    }
  }
  for (int64_t i = end > begin ? end : begin; i < n; ++i) at(i);
}

/// Eight doubles, wherever they lie; the compiler makes of it what the instruction set has.
using Eight [[gnu::vector_size(64), gnu::aligned(8), gnu::may_alias]] = double;
constexpr int64_t kStep = 32;  // four of them at a time

int64_t whole_steps(int64_t n) { return (n + kStep - 1) / kStep * kStep; }

/// to[x] = k[0] from[x] + k[1] from[x + 1] + ..., in this order.
void filter_row(const double* from, const double* k, int size, int64_t n, double* to) {
  for (int64_t x = 0; x < n; x += kStep) {
    Eight sum[4];
    for (int i = 0; i < 4; ++i) {
      sum[i] = k[0] * *reinterpret_cast<const Eight*>(from + x + 8 * i);
    }
    for (int j = 1; j < size; ++j) {
      for (int i = 0; i < 4; ++i) {
        sum[i] += k[j] * *reinterpret_cast<const Eight*>(from + x + j + 8 * i);
      }
    }
    for (int i = 0; i < 4; ++i) *reinterpret_cast<Eight*>(to + x + 8 * i) = sum[i];
  }
}

/// The rows above and below a middle one, each pair added (derivative: subtracted) before it is
/// weighted, from the middle on.
void filter_column(const double* const* rows, const double* k, int radius, bool is_derivative,
                   int64_t n, double* to) {
  const double* const* middle = rows + radius;
  for (int64_t x = 0; x < n; x += kStep) {
    Eight sum[4];
    if (is_derivative) {
      for (int i = 0; i < 4; ++i) {
        const int64_t at = x + 8 * i;
        sum[i] = k[radius + 1] * (*reinterpret_cast<const Eight*>(middle[1] + at) -
                                  *reinterpret_cast<const Eight*>(middle[-1] + at));
      }
      for (int j = 2; j <= radius; ++j) {
        for (int i = 0; i < 4; ++i) {
          const int64_t at = x + 8 * i;
          sum[i] += k[radius + j] * (*reinterpret_cast<const Eight*>(middle[j] + at) -
                                     *reinterpret_cast<const Eight*>(middle[-j] + at));
        }
      }
    } else {
      for (int i = 0; i < 4; ++i) {
        sum[i] = k[radius] * *reinterpret_cast<const Eight*>(middle[0] + x + 8 * i);
      }
      for (int j = 1; j <= radius; ++j) {
        for (int i = 0; i < 4; ++i) {
          const int64_t at = x + 8 * i;
          sum[i] += k[radius + j] * (*reinterpret_cast<const Eight*>(middle[j] + at) +
                                     *reinterpret_cast<const Eight*>(middle[-j] + at));
        }
      }
    }
    for (int i = 0; i < 4; ++i) *reinterpret_cast<Eight*>(to + x + 8 * i) = sum[i];
  }
}

/// Calls visit(y, values) for each row of a block, with the derivative of one map.
template <class Visit>
void derive_hovernet(const HoverGradient& gradient, int channel, const Block& block,
                     double* scratch, const Visit& visit) {
  const int radius = gradient.kernels.radius, size = gradient.kernels.size;
  const int64_t n = block.col_end - block.col_begin, stride = whole_steps(n);
  double* const line = scratch;
  double* const out = line + stride + 2 * radius;
  double* const ring = out + stride;
  std::memset(line, 0, static_cast<size_t>(stride + 2 * radius) * sizeof(double));
  const double* rows[SobelKernels::kMostSize];
  for (int64_t y = block.row_begin - radius; y < block.row_end + radius; ++y) {
    const int64_t i = y - block.row_begin + radius;
    load_row(gradient, channel, mirrored(y, gradient.shape.y), block.col_begin - radius,
             n + 2 * radius, line);
    filter_row(line, gradient.row_kernel(channel), size, n, ring + i % size * stride);
    if (i < 2 * radius) continue;
    for (int k = 0; k < size; ++k) rows[k] = ring + (i - 2 * radius + k) % size * stride;
    filter_column(rows, gradient.column_kernel(channel), radius, channel == 1, n, out);
    visit(y - radius, out);
  }
}

/// The same in float: columns first, all sums fused, from the first row and column on.
template <class Visit>
void derive_monai(const HoverGradient& gradient, int channel, const Block& block, double* scratch,
                  const Visit& visit) {
  const int radius = gradient.kernels.radius, size = gradient.kernels.size;
  const int64_t n = block.col_end - block.col_begin, padded = n + 2 * radius;
  float* const sum = reinterpret_cast<float*>(scratch);
  float* const out = sum + padded;
  float* const ring = out + n;
  const double* const down = gradient.column_kernel(channel);
  const double* const across = gradient.row_kernel(channel);
  for (int64_t y = block.row_begin - radius; y < block.row_end + radius; ++y) {
    const int64_t i = y - block.row_begin + radius;
    load_row(gradient, channel, mirrored(y, gradient.shape.y), block.col_begin - radius, padded,
             ring + i % size * padded);
    if (i < 2 * radius) continue;
    for (int64_t x = 0; x < padded; ++x) sum[x] = 0.0f;
    for (int k = 0; k < size; ++k) {
      const float weight = static_cast<float>(down[k]);
      const float* const row = ring + (i - 2 * radius + k) % size * padded;
      for (int64_t x = 0; x < padded; ++x) sum[x] = fused(weight, row[x], sum[x]);
    }
    for (int64_t x = 0; x < n; ++x) out[x] = 0.0f;
    for (int k = 0; k < size; ++k) {
      const float weight = static_cast<float>(across[k]);
      for (int64_t x = 0; x < n; ++x) out[x] = fused(weight, sum[x + k], out[x]);
    }
    visit(y - radius, out);
  }
}

template <class Visit>
void derive(const HoverGradient& gradient, int channel, const Block& block, double* scratch,
            const Visit& visit) {
  if (gradient.style == HoverStyle::hovernet) {
    derive_hovernet(gradient, channel, block, scratch, visit);
  } else {
    derive_monai(gradient, channel, block, scratch, visit);
  }
}

void gradient_range(const HoverGradient& gradient, const Block& block, double* scratch,
                    Range (&ranges)[2]) {
  const int64_t n = block.col_end - block.col_begin;
  for (int channel = 0; channel < 2; ++channel) {
    Range& range = ranges[channel];
    derive(gradient, channel, block, scratch, [&](int64_t, const auto* values) {
      auto low = values[0], high = values[0];
      for (int64_t x = 1; x < n; ++x) {
        low = values[x] < low ? values[x] : low;
        high = values[x] > high ? values[x] : high;
      }
      range.low = low < range.low ? static_cast<double>(low) : range.low;
      range.high = high > range.high ? static_cast<double>(high) : range.high;
    });
  }
}

void write_gradients(const HoverGradient& gradient, const Block& block, double* scratch,
                     double* out) {
  const int64_t n = block.col_end - block.col_begin;
  for (int channel = 0; channel < 2; ++channel) {
    derive(gradient, channel, block, scratch, [&](int64_t y, const auto* values) {
      double* const to =
          out + (channel * gradient.shape.y + y) * gradient.shape.x + block.col_begin;
      for (int64_t x = 0; x < n; ++x) to[x] = static_cast<double>(values[x]);
    });
  }
}

void find_border(const HoverGradient& gradient, const Rescale (&rescale)[2], const Block& block,
                 double* scratch, float* border) {
  const int64_t n = block.col_end - block.col_begin;
  for (int channel = 0; channel < 2; ++channel) {
    const Rescale scale = rescale[channel];
    derive(gradient, channel, block, scratch, [&](int64_t y, const auto* values) {
      float* const to = border + y * gradient.shape.x + block.col_begin;
      if (channel == 0) {
        for (int64_t x = 0; x < n; ++x) to[x] = 1.0f - scale.gradient(values[x]);
      } else {
        for (int64_t x = 0; x < n; ++x) {
          const float other = 1.0f - scale.gradient(values[x]);
          to[x] = to[x] > other ? to[x] : other;
        }
      }
    });
  }
}

}  // namespace

WatershedKernels watershed_kernels() { return {gradient_range, write_gradients, find_border}; }

}  // namespace cellpost::cpu::CELLPOST_ISA
