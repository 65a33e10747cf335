// Flooding from markers, and HoVer maps to labels: the sequence of stages, for both devices.
//
//   range -> derivatives' range -> border -> markers -> flooding -> numbers
//
// Besides what pipeline/labels.h asks of it, Exec has these stages of its own:
//   flood(Flood<Energy>)                          floods the listed components
//   gradient_range(gradient, low, high)           of the derivatives, as ordered()
//   write_gradients(gradient, out)                the derivatives themselves
//   find_border(gradient, rescale, mask, border)  border at the pixels of the mask
//
// Memory, in bytes a pixel: labels 4 (the result) + border 4 + mask and markers 2 / 8, and 20 for
// each run of mask pixels.
#pragma once

#include "core/watershed_hover.h"
#include "pipeline/components.h"
#include "pipeline/labels.h"

namespace cellpost {

/// Floods the mask from the markers in `labels`; those outside it are dropped. Returns the
/// components without a marker.
template <class Exec, class Energy>
int64_t flood(Exec& exec, const Shape& shape, const BitImage& mask, int connectivity,
              const Energy& energy, int32_t* labels) {
  exec.for_each_pixel(shape.rows(), shape.x, ClearOutside{mask, labels});
  auto components = components_of(exec, shape, mask, connectivity);
  const Runs& runs = components.runs();
  const UnionFind& sets = components.sets();
  auto smallest = exec.template alloc<int32_t>(runs.n);
  auto largest = exec.template alloc<int32_t>(runs.n);
  exec.fill(smallest.data(), runs.n, INT32_MAX);
  exec.fill(largest.data(), runs.n, int32_t{0});
  exec.for_each(runs.n, FindMarkers{runs, sets, shape.x, labels, smallest.data(), largest.data()});
  exec.for_each(runs.n,
                FillOneMarker{runs, sets, shape.x, smallest.data(), largest.data(), labels});
  auto list =
      exec.template select<int64_t>(0, runs.n, IsContested{sets, smallest.data(), largest.data()});
  if (list.size() > 0) {
    auto root = exec.template alloc<int64_t>(list.size());
    exec.for_each(list.size(), GatherRoot{sets, list.data(), root.data()});
    exec.sort_by(root, list);
    auto first = exec.template select<int64_t>(0, list.size(), IsFirstOfRoot{root.data()});
    exec.flood(Flood<Energy>{energy, mask, shape, Neighbours(shape.ndim, connectivity), runs,
                             list.data(), list.size(), first.data(), first.size(), labels});
  }
  return exec.template select<int64_t>(0, runs.n, IsUnmarkedRoot{sets, largest.data()}).size();
}

template <class Exec>
int64_t watershed(Exec& exec, const EnergyView& energy, const MaskView& mask, const Shape& shape,
                  int connectivity, int32_t* labels) {
  const Bits<Exec> bits(exec, shape);
  pack_bits(exec, shape, IsInside{mask}, bits.view());
  return flood(exec, shape, bits.view(), connectivity, energy, labels);
}

// ---- HoVer maps --------------------------------------------------------------------------------

struct HoverOptions {
  HoverStyle style = HoverStyle::hovernet;
  IsNucleus is_nucleus{};
  double border_limit = 0.4;
  SobelKernels kernels;
  Footprint footprint;
  int64_t min_size = 10;
  int tail = 4;  ///< of the Gaussian, monai only
  float taps[2 * MonaiEnergy::kMostTail + 1] = {};
  int connectivity = 1;
  bool has_value_range = false, has_gradient_range = false;
  HoverRanges ranges{};
};

/// What each stage found and dropped; the Python class of this name documents the fields.
struct HoverReport {
  int64_t n_regions = 0, n_small_regions = 0, n_markers = 0, n_small_markers = 0, n_unmarked = 0,
          n_labels = 0;
};

/// Runs find(low, high), which notes two ranges as ordered(), and brings them to the host.
template <class Exec, class Find>
void find_ranges(Exec& exec, const Find& find, Range (&ranges)[2]) {
  auto bounds = exec.template alloc<int64_t>(4);
  exec.fill(bounds.data(), 2, INT64_MAX);
  exec.fill(bounds.data() + 2, 2, INT64_MIN);
  find(bounds.data(), bounds.data() + 2);
  for (int c = 0; c < 2; ++c) {
    const int64_t low = exec.read(bounds.data() + c), high = exec.read(bounds.data() + 2 + c);
    ranges[c] = low <= high ? Range{from_ordered(low), from_ordered(high)} : Range{0.0, 0.0};
  }
}

/// The ranges that the maps are scaled by: those of the options, else those of the maps.
template <class Exec>
HoverRanges hover_ranges(Exec& exec, const FloatView& hv, const Shape& shape,
                         const HoverOptions& options, HoverGradient* gradient) {
  HoverRanges ranges = options.ranges;
  if (!options.has_value_range) {
    find_ranges(
        exec,
        [&](int64_t* low, int64_t* high) {
          exec.for_each_object(shape.y, FindValueRange{hv, shape, low, high});
        },
        ranges.value);
  }
  *gradient = {options.style,
               hv,
               shape,
               options.kernels,
               {Rescale(options.style, ranges.value[0]), Rescale(options.style, ranges.value[1])}};
  if (!options.has_gradient_range) {
    find_ranges(
        exec, [&](int64_t* low, int64_t* high) { exec.gradient_range(*gradient, low, high); },
        ranges.gradient);
  }
  return ranges;
}

template <class Exec>
HoverRanges hover_ranges(Exec& exec, const FloatView& hv, const Shape& shape,
                         const HoverOptions& options) {
  HoverGradient gradient;
  return hover_ranges(exec, hv, shape, options, &gradient);
}

template <class Exec>
void hover_gradients(Exec& exec, const FloatView& hv, const Shape& shape,
                     const HoverOptions& options, double* out) {
  HoverOptions known = options;
  known.has_gradient_range = true;  // not asked for
  HoverGradient gradient;
  hover_ranges(exec, hv, shape, known, &gradient);
  exec.write_gradients(gradient, out);
}

/// Mask, border at the pixels of the mask, and numbered markers.
template <class Exec>
HoverReport hover_markers(Exec& exec, const FloatView& hv, const Shape& shape,
                          const HoverOptions& options, const BitImage& mask, float* border,
                          int32_t* markers) {
  HoverReport report;
  pack_bits(exec, shape, options.is_nucleus, mask);
  {
    auto regions = components_of(exec, shape, mask, 1);
    report.n_small_regions = regions.clear_small(options.min_size, mask);
    report.n_regions = regions.roots().size() - report.n_small_regions;
  }
  HoverGradient gradient;
  const HoverRanges ranges = hover_ranges(exec, hv, shape, options, &gradient);
  const Rescale rescale[2] = {Rescale(options.style, ranges.gradient[0]),
                              Rescale(options.style, ranges.gradient[1])};
  exec.find_border(gradient, rescale, mask, border);
  const Bits<Exec> inner(exec, shape);
  pack_bits(exec, shape, IsMarker{mask, border, options.border_limit}, inner.view());
  fill_holes(exec, shape, options.style == HoverStyle::monai ? 2 : 1, inner.view());
  open_bits(exec, shape, options.footprint, inner.view());
  report.n_small_markers =
      components_of(exec, shape, inner.view(), 1).clear_small(options.min_size, inner.view());
  report.n_markers = components_of(exec, shape, inner.view(), 1).write_ids(markers);
  return report;
}

/// Calls use(energy).
template <class Use>
void with_energy(const HoverOptions& options, const BitImage& mask, const float* border,
                 const Use& use) {
  if (options.style == HoverStyle::hovernet) {
    use(HovernetEnergy{mask, border});
  } else {
    MonaiEnergy energy{mask, border, options.tail, {}};
    for (int k = 0; k <= 2 * options.tail; ++k) energy.taps[k] = options.taps[k];
    use(energy);
  }
}

template <class Exec>
HoverReport hover_watershed(Exec& exec, const FloatView& hv, const Shape& shape,
                            const HoverOptions& options, int32_t* labels) {
  HoverReport report;
  {
    const Bits<Exec> mask(exec, shape);
    auto border = exec.template alloc<float>(shape.pixels());
    report = hover_markers(exec, hv, shape, options, mask.view(), border.data(), labels);
    with_energy(options, mask.view(), border.data(), [&](const auto& energy) {
      report.n_unmarked = flood(exec, shape, mask.view(), options.connectivity, energy, labels);
    });
  }
  report.n_labels = Objects<Exec>(exec, shape, labels, report.n_markers).renumber();
  return report;
}

/// The stages before flooding, for a look or for another watershed.
template <class Exec>
HoverReport watershed_markers(Exec& exec, const FloatView& hv, const Shape& shape,
                              const HoverOptions& options, int32_t* markers, double* energy,
                              uint8_t* mask) {
  const Bits<Exec> bits(exec, shape);
  auto border = exec.template alloc<float>(shape.pixels());
  const HoverReport report =
      hover_markers(exec, hv, shape, options, bits.view(), border.data(), markers);
  with_energy(options, bits.view(), border.data(), [&](const auto& values) {
    using Energy = std::decay_t<decltype(values)>;
    exec.for_each_pixel(shape.y, shape.x, WriteEnergy<Energy>{values, energy});
  });
  for_each_word(exec, bits.view(), UnpackBits{bits.view(), mask});
  return report;
}

}  // namespace cellpost
