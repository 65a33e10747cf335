// C++ contract of the watershed family. Results are C-contiguous and written whole.
#pragma once

#include <array>
#include <optional>

#include "api/array.h"
#include "pipeline/watershed.h"

namespace cellpost::api {

enum class FootprintShape : int { ellipse = 0, disk = 1 };

/// Arguments of the HoVer functions as a caller gives them.
struct HoverParameters {
  HoverStyle style = HoverStyle::hovernet;
  Activation activation = Activation::none;
  std::optional<double> threshold = 0.5;  ///< none: the larger of two channels
  double border_threshold = 0.4;
  int64_t ksize = 21;
  int64_t radius = 2;
  FootprintShape footprint = FootprintShape::ellipse;
  int64_t min_size = 10;
  double sigma = 1.0;  ///< monai only
  int64_t connectivity = 1;
  std::optional<std::array<Range, 2>> value_range, gradient_range;  ///< of H and V
};

/// Components of a bool mask, 1..N in raster order; returns N.
int64_t label(const Array& mask, int64_t connectivity, const Array& labels);
void fill_mask_holes(const Array& mask, int64_t connectivity, const Array& out);
void open_mask(const Array& mask, int64_t radius, FootprintShape footprint, const Array& out);
/// Floods `labels`, which hold the markers, in place; returns components without a marker.
int64_t watershed(const Array& energy, const Array& mask, int64_t connectivity,
                  const Array& labels);
HoverRanges hover_ranges(const Array& hv, const HoverParameters& parameters);
/// Derivatives (2, H, W), float64.
void hover_gradients(const Array& hv, const HoverParameters& parameters, const Array& out);
HoverReport hover_watershed(const Array& prob, const Array& hv, const HoverParameters& parameters,
                            const Array& labels);
HoverReport watershed_markers(const Array& prob, const Array& hv, const HoverParameters& parameters,
                              const Array& markers, const Array& energy, const Array& mask);

}  // namespace cellpost::api
