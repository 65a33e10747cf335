#include "api/flows.h"

#include <cmath>

#include "api/check.h"
#include "api/labels.h"
#include "cpu/flows.h"
#include "cuda/flows.h"

namespace cellpost::api {
namespace {

constexpr int64_t kMostSteps = INT32_MAX - 1;

void check_steps(int64_t niter) {
  if (niter < 0 || niter > kMostSteps) {
    reject("niter", "an integer from 0 to " + std::to_string(kMostSteps), std::to_string(niter));
  }
}

void check_fraction(double fraction) {
  if (!(fraction >= 0.0)) reject("max_size_fraction", "a number >= 0", std::to_string(fraction));
}

void check_number(const char* name, double value) {
  if (std::isnan(value)) reject(name, "a number", "NaN");
}

/// An image given by its shape alone.
Shape shape_of(const char* name, const std::vector<int64_t>& lengths) {
  Array image;
  image.name = name;
  image.shape = lengths;
  return image_shape(image);
}

/// `shape` at `offset` in an image of shape `global`; both empty: it is the image.
Window window_of(const Shape& shape, const std::vector<int64_t>& offset,
                 const std::vector<int64_t>& global) {
  Window window = whole(shape);
  if (global.empty() && !offset.empty()) {
    reject("offset", "none without global_shape", text(offset));
  }
  if (!global.empty()) {
    window.global = shape_of("global_shape", global);
    const int64_t part[3] = {shape.z, shape.y, shape.x};
    const int64_t all[3] = {window.global.z, window.global.y, window.global.x};
    if (window.global.ndim != shape.ndim || offset.size() != global.size()) {
      reject("offset, global_shape", std::to_string(shape.ndim) + " values each",
             text(offset) + ", " + text(global));
    }
    for (size_t k = 0; k < offset.size(); ++k) {
      const size_t axis = 3 - offset.size() + k;
      window.offset[axis] = offset[k];
      if (offset[k] < 0 || offset[k] > all[axis] - part[axis]) {
        reject("offset", "a window inside the image of shape " + text(global), text(offset));
      }
    }
  }
  return window;
}

/// End bins of a part of a 2D image.
int64_t* bins_of(const Array& bins, Shape* part) {
  *part = image_shape(bins);
  if (part->ndim != 2) reject("bins", "2 axes", text(bins.shape));
  return static_cast<int64_t*>(output(bins, "int64", bins.shape));
}

}  // namespace

FlowReport follow_flows(const Array& dP, const Array& cellprob, const FollowOptions& options,
                        const Array& labels) {
  const Shape shape = image_shape(cellprob);
  const FloatView flow = flow_view(dP, shape), cell = map_view(cellprob, shape);
  same_place(dP, cellprob);
  check_steps(options.n_steps);
  check_fraction(options.max_size_fraction);
  check_number("cellprob_threshold", options.cellprob_threshold);
  check_number("flow_threshold", options.flow_threshold);
  auto* out = static_cast<int32_t*>(output(labels, "int32", cellprob.shape));
  if (shape.pixels() == 0) return {};
  return dP.place.cuda ? cuda::follow_flows(dP.place, flow, cell, shape, options, out)
                       : cpu::follow_flows(flow, cell, shape, options, out);
}

int64_t count_foreground(const Array& mask) {
  const Shape shape = image_shape(mask);
  const MaskView view = mask_view(mask, shape);
  if (shape.pixels() == 0) return 0;
  return mask.place.cuda ? cuda::count_foreground(mask.place, view, shape)
                         : cpu::count_foreground(view, shape);
}

void flow_endpoints(const Array& dP, const Array& mask, int64_t niter, Sampling sampling,
                    const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                    const Array& endpoints) {
  const Shape shape = image_shape(mask);
  const FloatView flow = flow_view(dP, shape);
  const MaskView inside = mask_view(mask, shape);
  same_place(dP, mask);
  check_steps(niter);
  const Window window = window_of(shape, offset, global);
  const int64_t n = count_foreground(mask);
  auto* points = static_cast<float*>(output(endpoints, "float32", {shape.ndim, n}));
  if (n == 0) return;
  if (dP.place.cuda) {
    cuda::end_points(dP.place, flow, inside, niter, sampling, window, points, n);
  } else {
    cpu::end_points(flow, inside, niter, sampling, window, points, n);
  }
}

int64_t endpoints_to_labels(const Array& endpoints, const Array& mask, double max_size_fraction,
                            const Array& labels) {
  const Shape shape = image_shape(mask);
  const MaskView inside = mask_view(mask, shape);
  const FloatView points = points_view(endpoints, shape, count_foreground(mask));
  same_place(mask, endpoints);
  check_fraction(max_size_fraction);
  auto* out = static_cast<int32_t*>(output(labels, "int32", mask.shape));
  if (shape.pixels() == 0) return 0;
  return mask.place.cuda
             ? cuda::endpoints_to_labels(mask.place, points, inside, shape, max_size_fraction, out)
             : cpu::endpoints_to_labels(points, inside, shape, max_size_fraction, out);
}

void masks_to_flows(const Array& labels, int64_t niter, const Array& flows) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  if (niter >= 0) check_steps(niter);
  std::vector<int64_t> expected = labels.shape;
  expected.insert(expected.begin(), shape.ndim);
  auto* out = static_cast<float*>(output(flows, "float32", expected));
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return;
  if (labels.place.cuda) {
    cuda::masks_to_flows(labels.place, data, shape, n, niter, out);
  } else {
    cpu::masks_to_flows(data, shape, n, niter, out);
  }
}

void flow_error(const Array& labels, const Array& dP, int64_t niter,
                const std::vector<int64_t>& global, const Array& errors) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const FloatView flow = flow_view(dP, shape);
  same_place(labels, dP);
  if (niter >= 0) check_steps(niter);
  const Shape image = global.empty() ? shape : shape_of("global_shape", global);
  const int64_t n = largest_label(labels), n_errors = count_labels(labels);
  auto* out = static_cast<double*>(output(errors, "float64", {n_errors}));
  if (n_errors == 0) return;
  if (labels.place.cuda) {
    cuda::flow_error(labels.place, data, shape, n, flow, niter, image, out, n_errors);
  } else {
    cpu::flow_error(data, shape, n, flow, niter, image, out, n_errors);
  }
}

FilterReport remove_bad_flows(const Array& labels, const Array& dP, double threshold) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const FloatView flow = flow_view(dP, shape);
  same_place(labels, dP);
  check_number("flow_threshold", threshold);
  const int64_t n = largest_label(labels);
  if (shape.pixels() == 0) return {};
  return labels.place.cuda ? cuda::remove_bad_flows(labels.place, data, shape, n, flow, threshold)
                           : cpu::remove_bad_flows(data, shape, n, flow, threshold);
}

void follow_region(const Array& dP, const Array& cellprob, const FollowOptions& options,
                   const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                   const std::vector<int64_t>& region, const Array& bins) {
  const Shape shape = image_shape(cellprob);
  const FloatView flow = flow_view(dP, shape), cell = map_view(cellprob, shape);
  same_place(dP, cellprob);
  same_place(dP, bins);
  check_steps(options.n_steps);
  check_number("cellprob_threshold", options.cellprob_threshold);
  const Window window = window_of(shape, offset, global);
  Shape part;
  int64_t* const data = bins_of(bins, &part);
  if (shape.ndim != 2 || region.size() != 2 || region[0] < 0 || region[1] < 0 ||
      region[0] > shape.y - part.y || region[1] > shape.x - part.x) {
    reject("region", "a place in the window for bins of shape " + text(bins.shape), text(region));
  }
  if (part.pixels() == 0) return;
  const Region wanted{region[0], region[1], part.y, part.x, data};
  if (dP.place.cuda) {
    cuda::follow_region(dP.place, flow, cell, options, window, wanted);
  } else {
    cpu::follow_region(flow, cell, options, window, wanted);
  }
}

void bound_bins(const Array& bins, const std::vector<int64_t>& global,
                const std::vector<int64_t>& side, const Array& boxes) {
  Shape part;
  const int64_t* const data = bins_of(bins, &part);
  const Shape image = shape_of("global_shape", global);
  if (side.size() != 2 || side[0] < 1 || side[1] < 1) {
    reject("side", "2 lengths >= 1", text(side));
  }
  const int64_t n_down = (image.y + side[0] - 1) / side[0];
  const int64_t n_across = (image.x + side[1] - 1) / side[1];
  auto* out = static_cast<int64_t*>(output(boxes, "int64", {n_down * n_across, 4}));
  const BoundBins job{data, part.x, image, side[0], side[1], n_across, out};
  if (bins.place.cuda) {
    cuda::bound_bins(bins.place, job, part.y);
  } else {
    cpu::bound_bins(job, part.y);
  }
}

void count_bins(const Array& bins, const std::vector<int64_t>& offset,
                const std::vector<int64_t>& global, const Array& counts) {
  Shape part;
  const int64_t* const data = bins_of(bins, &part);
  const Window window = window_of(image_shape(counts), offset, global);
  same_place(bins, counts);
  auto* out = static_cast<int32_t*>(output(counts, "int32", counts.shape));
  if (bins.place.cuda) {
    cuda::count_bins(bins.place, data, part, window, out);
  } else {
    cpu::count_bins(data, part, window, out);
  }
}

std::vector<int64_t> find_seeds(const Array& counts) {
  const Shape shape = image_shape(counts);
  const auto* data = static_cast<int32_t*>(output(counts, "int32", counts.shape));
  return counts.place.cuda ? cuda::find_seeds(counts.place, data, shape)
                           : cpu::find_seeds(data, shape);
}

void label_bins(const Array& bins, const Array& counts, const std::vector<int64_t>& seeds,
                const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                const Array& labels) {
  Shape part;
  const int64_t* const data = bins_of(bins, &part);
  const Window window = window_of(image_shape(counts), offset, global);
  same_place(bins, counts);
  same_place(bins, labels);
  const auto* histogram = static_cast<int32_t*>(output(counts, "int32", counts.shape));
  auto* out = static_cast<int32_t*>(output(labels, "int32", bins.shape));
  for (const int64_t seed : seeds) {
    if (seed < 0 || seed >= window.shape.pixels()) {
      reject("seeds", "bins of the window", std::to_string(seed));
    }
  }
  if (bins.place.cuda) {
    cuda::label_bins(bins.place, data, part, window, histogram, seeds, out);
  } else {
    cpu::label_bins(data, part, window, histogram, seeds, out);
  }
}

void survey_objects(const Array& labels, const Array& rows, const std::optional<Array>& has_hole) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  same_place(labels, rows);
  const int64_t n = rows.shape.empty() ? 0 : rows.shape[0], largest = largest_label(labels);
  if (largest > n) reject("labels", "ids up to " + std::to_string(n), std::to_string(largest));
  auto* out = static_cast<int64_t*>(output(rows, "int64", {n, 6}));
  int32_t* flags = nullptr;
  if (has_hole) {
    same_place(labels, *has_hole);
    flags = static_cast<int32_t*>(output(*has_hole, "int32", {n}));
  }
  if (labels.place.cuda) {
    cuda::survey_objects(labels.place, data, shape, n, out, flags);
  } else {
    cpu::survey_objects(data, shape, n, out, flags);
  }
}

void map_labels(const Array& labels, const Array& map) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  same_place(labels, map);
  const LabelRange range = label_range(labels);
  const int64_t n = map.shape.empty() ? 0 : map.shape[0];
  if (range.low < 0 || range.high >= n) {
    reject("labels", "ids from 0 to " + std::to_string(n - 1),
           std::to_string(range.low) + " to " + std::to_string(range.high));
  }
  const auto* by_id = static_cast<int32_t*>(output(map, "int32", {n}));
  if (labels.place.cuda) {
    cuda::map_labels(labels.place, by_id, data, shape.pixels());
  } else {
    cpu::map_labels(by_id, data, shape.pixels());
  }
}

}  // namespace cellpost::api
