#include "api/watershed.h"

#include <algorithm>
#include <cmath>

#include "api/check.h"
#include "cpu/watershed.h"
#include "cuda/watershed.h"

namespace cellpost::api {
namespace {

constexpr double kLargestSigma = MonaiEnergy::kMostTail / 4.0;

int checked_connectivity(int64_t connectivity, const Shape& shape) {
  if (connectivity < 1 || connectivity > shape.ndim) {
    reject("connectivity", "1 to " + std::to_string(shape.ndim), std::to_string(connectivity));
  }
  return static_cast<int>(connectivity);
}

Footprint make_footprint(int64_t radius, FootprintShape kind) {
  if (radius < 0 || radius > Footprint::kMostRadius) {
    reject("radius", "0 to " + std::to_string(Footprint::kMostRadius) + " pixels",
           std::to_string(radius));
  }
  Footprint footprint;
  footprint.radius = static_cast<int>(radius);
  const auto r = static_cast<double>(radius);
  for (int dy = 0; dy <= footprint.radius; ++dy) {
    const double half = std::sqrt(r * r - dy * dy);
    // OpenCV's ellipse rounds to the nearest (r * sqrt of a ratio, as it computes it).
    footprint.half_width[dy] =
        kind == FootprintShape::disk
            ? static_cast<int>(half)
            : static_cast<int>(std::rint(
                  radius == 0 ? 0.0 : r * std::sqrt((r * r - dy * dy) * (1.0 / (r * r)))));
  }
  return footprint;
}

/// Taps of a Gaussian, each the integral over a pixel by the error function, rounded to float as
/// PyTorch rounds.
void make_taps(double sigma, HoverOptions& options) {
  const float width = static_cast<float>(sigma);
  options.tail = static_cast<int>(std::max(static_cast<double>(width) * 4.0, 0.5) + 0.5);
  const float t = 0.70710678f / width;
  const auto erf_of = [&](float x) {
    return static_cast<float>(std::erf(static_cast<double>(t * x)));
  };
  for (int k = -options.tail; k <= options.tail; ++k) {
    const float x = static_cast<float>(k);
    const float tap = 0.5f * (erf_of(x + 0.5f) - erf_of(x - 0.5f));
    options.taps[k + options.tail] = tap > 0.0f ? tap : 0.0f;
  }
}

void take_ranges(const std::optional<std::array<Range, 2>>& given, const char* name, bool* has,
                 Range (&ranges)[2]) {
  *has = given.has_value();
  if (!given) return;
  for (size_t c = 0; c < 2; ++c) {
    const Range& range = (*given)[c];
    if (!(range.low < range.high) || !std::isfinite(range.low) || !std::isfinite(range.high)) {
      reject(name, "finite numbers low < high",
             std::to_string(range.low) + ", " + std::to_string(range.high));
    }
    ranges[c] = range;
  }
}

Shape hover_shape(const Array& hv) {
  if (hv.shape.size() != 3 || hv.shape[0] != 2) {
    reject(hv.name, "shape (2, H, W) (horizontal map first)", "shape " + text(hv.shape));
  }
  Array plane = hv;
  plane.shape.erase(plane.shape.begin());
  return image_shape(plane);
}

HoverOptions make_options(const HoverParameters& p) {
  HoverOptions options;
  options.style = p.style;
  if (p.ksize < 3 || p.ksize > SobelKernels::kMostSize || p.ksize % 2 == 0) {
    reject("ksize", "an odd number from 3 to " + std::to_string(SobelKernels::kMostSize),
           std::to_string(p.ksize));
  }
  options.kernels = SobelKernels(p.style, static_cast<int>(p.ksize));
  if (std::isnan(p.border_threshold)) reject("border_threshold", "a number", "nan");
  // Each tool compares in the precision of its maps.
  options.border_limit = p.style == HoverStyle::monai
                             ? static_cast<double>(static_cast<float>(p.border_threshold))
                             : p.border_threshold;
  options.footprint = make_footprint(p.radius, p.footprint);
  options.min_size = p.min_size;
  if (!(p.sigma > 0.0) || p.sigma > kLargestSigma) {
    reject("sigma", "a number above 0 and up to " + std::to_string(kLargestSigma),
           std::to_string(p.sigma));
  }
  make_taps(p.sigma, options);
  take_ranges(p.value_range, "value_range", &options.has_value_range, options.ranges.value);
  take_ranges(p.gradient_range, "gradient_range", &options.has_gradient_range,
              options.ranges.gradient);
  return options;
}

IsNucleus nucleus_test(const Array& prob, const Shape& shape, const HoverParameters& p) {
  const bool two = prob.shape.size() == 3;
  const std::vector<int64_t> plane{shape.y, shape.x}, pair{2, shape.y, shape.x};
  const bool fits =
      prob.shape == (two ? pair : plane) &&
      (two ? p.activation != Activation::sigmoid : p.activation != Activation::softmax);
  if (!fits) {
    const std::string expected = p.activation == Activation::sigmoid ? text(plane)
                                 : p.activation == Activation::softmax
                                     ? text(pair)
                                     : text(plane) + " or " + text(pair);
    reject(prob.name, "shape " + expected, "shape " + text(prob.shape));
  }
  IsNucleus test{};
  test.prob = float_view(prob, two);
  test.two_channels = two;
  test.argmax = !p.threshold.has_value();
  if (test.argmax) {
    if (!two) reject("threshold", "a number (None is for two channels)", "None");
    return test;
  }
  const double threshold = *p.threshold;
  if (!(threshold >= 0.0 && threshold <= 1.0)) {
    reject("threshold", "a probability from 0 to 1", std::to_string(threshold));
  }
  test.difference = p.activation == Activation::softmax;
  test.limit = static_cast<float>(
      p.activation == Activation::none ? threshold : std::log(threshold / (1.0 - threshold)));
  return test;
}

EnergyView energy_view(const Array& energy, const Shape& shape) {
  static const std::pair<const char*, EnergyType> kTypes[] = {
      {"float16", EnergyType::f16}, {"bfloat16", EnergyType::bf16}, {"float32", EnergyType::f32},
      {"float64", EnergyType::f64}, {"int8", EnergyType::i8},       {"int16", EnergyType::i16},
      {"int32", EnergyType::i32},   {"int64", EnergyType::i64},     {"uint8", EnergyType::u8},
      {"uint16", EnergyType::u16},  {"uint32", EnergyType::u32},    {"uint64", EnergyType::u64}};
  const auto strides = plane_strides(energy, shape);
  for (const auto& [name, type] : kTypes) {
    if (energy.dtype == name) return {energy.data, type, {strides[0], strides[1], strides[2]}};
  }
  reject_dtype(energy.name, "a real dtype", energy.dtype);
}

}  // namespace

int64_t label(const Array& mask, int64_t connectivity, const Array& labels) {
  const Shape shape = image_shape(mask);
  const MaskView inside = mask_view(mask, shape);
  const int near = checked_connectivity(connectivity, shape);
  auto* out = static_cast<int32_t*>(output(labels, "int32", mask.shape));
  same_place(mask, labels);
  if (shape.pixels() == 0) return 0;
  return mask.place.cuda ? cuda::label(mask.place, inside, shape, near, out)
                         : cpu::label(inside, shape, near, out);
}

void fill_mask_holes(const Array& mask, int64_t connectivity, const Array& out) {
  const Shape shape = image_shape(mask);
  const MaskView inside = mask_view(mask, shape);
  const int near = checked_connectivity(connectivity, shape);
  auto* filled = static_cast<uint8_t*>(output(out, "bool", mask.shape));
  same_place(mask, out);
  if (shape.pixels() == 0) return;
  mask.place.cuda ? cuda::fill_mask_holes(mask.place, inside, shape, near, filled)
                  : cpu::fill_mask_holes(inside, shape, near, filled);
}

void open_mask(const Array& mask, int64_t radius, FootprintShape footprint, const Array& out) {
  const Shape shape = image_shape(mask);
  if (shape.ndim != 2) reject(mask.name, "2 axes (H, W)", "shape " + text(mask.shape));
  const MaskView inside = mask_view(mask, shape);
  const Footprint around = make_footprint(radius, footprint);
  auto* opened = static_cast<uint8_t*>(output(out, "bool", mask.shape));
  same_place(mask, out);
  if (shape.pixels() == 0) return;
  mask.place.cuda ? cuda::open_mask(mask.place, inside, shape, around, opened)
                  : cpu::open_mask(inside, shape, around, opened);
}

int64_t watershed(const Array& energy, const Array& mask, int64_t connectivity,
                  const Array& labels) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const EnergyView levels = energy_view(energy, shape);
  const MaskView inside = mask_view(mask, shape);
  const int near = checked_connectivity(connectivity, shape);
  same_place(energy, mask);
  same_place(energy, labels);
  if (shape.pixels() == 0) return 0;
  return energy.place.cuda ? cuda::watershed(energy.place, levels, inside, shape, near, data)
                           : cpu::watershed(levels, inside, shape, near, data);
}

HoverRanges hover_ranges(const Array& hv, const HoverParameters& parameters) {
  const Shape shape = hover_shape(hv);
  const FloatView maps = float_view(hv, true);
  const HoverOptions options = make_options(parameters);
  if (shape.pixels() == 0) return options.ranges;
  return hv.place.cuda ? cuda::hover_ranges(hv.place, maps, shape, options)
                       : cpu::hover_ranges(maps, shape, options);
}

void hover_gradients(const Array& hv, const HoverParameters& parameters, const Array& out) {
  const Shape shape = hover_shape(hv);
  const FloatView maps = float_view(hv, true);
  const HoverOptions options = make_options(parameters);
  auto* derivatives = static_cast<double*>(output(out, "float64", hv.shape));
  same_place(hv, out);
  if (shape.pixels() == 0) return;
  hv.place.cuda ? cuda::hover_gradients(hv.place, maps, shape, options, derivatives)
                : cpu::hover_gradients(maps, shape, options, derivatives);
}

HoverReport hover_watershed(const Array& prob, const Array& hv, const HoverParameters& parameters,
                            const Array& labels) {
  const Shape shape = hover_shape(hv);
  const FloatView maps = float_view(hv, true);
  HoverOptions options = make_options(parameters);
  options.is_nucleus = nucleus_test(prob, shape, parameters);
  options.connectivity = checked_connectivity(parameters.connectivity, shape);
  auto* out = static_cast<int32_t*>(output(labels, "int32", {shape.y, shape.x}));
  same_place(prob, hv);
  same_place(prob, labels);
  if (shape.pixels() == 0) return {};
  return hv.place.cuda ? cuda::hover_watershed(hv.place, maps, shape, options, out)
                       : cpu::hover_watershed(maps, shape, options, out);
}

HoverReport watershed_markers(const Array& prob, const Array& hv, const HoverParameters& parameters,
                              const Array& markers, const Array& energy, const Array& mask) {
  const Shape shape = hover_shape(hv);
  const FloatView maps = float_view(hv, true);
  HoverOptions options = make_options(parameters);
  options.is_nucleus = nucleus_test(prob, shape, parameters);
  const std::vector<int64_t> plane{shape.y, shape.x};
  auto* ids = static_cast<int32_t*>(output(markers, "int32", plane));
  auto* values = static_cast<double*>(output(energy, "float64", plane));
  auto* inside = static_cast<uint8_t*>(output(mask, "bool", plane));
  same_place(prob, hv);
  if (shape.pixels() == 0) return {};
  return hv.place.cuda
             ? cuda::watershed_markers(hv.place, maps, shape, options, ids, values, inside)
             : cpu::watershed_markers(maps, shape, options, ids, values, inside);
}

}  // namespace cellpost::api
