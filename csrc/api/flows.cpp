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
  Window window = whole(shape);
  if (global.empty() && !offset.empty()) {
    reject("offset", "none without global_shape", text(offset));
  }
  if (!global.empty()) {
    Array image;
    image.name = "global_shape";
    image.shape = global;
    window.global = image_shape(image);
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

void flow_error(const Array& labels, const Array& dP, const Array& errors) {
  Shape shape;
  int32_t* data = labels_in_place(labels, &shape);
  const FloatView flow = flow_view(dP, shape);
  same_place(labels, dP);
  const int64_t n = largest_label(labels), n_errors = count_labels(labels);
  auto* out = static_cast<double*>(output(errors, "float64", {n_errors}));
  if (n_errors == 0) return;
  if (labels.place.cuda) {
    cuda::flow_error(labels.place, data, shape, n, flow, out, n_errors);
  } else {
    cpu::flow_error(data, shape, n, flow, out, n_errors);
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

}  // namespace cellpost::api
