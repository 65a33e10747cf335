#include "cuda/flows.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

FlowReport follow_flows(const Place& place, const FloatView& dP, const FloatView& cellprob,
                        const Shape& shape, const FollowOptions& options, int32_t* labels) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::follow_flows(exec, dP, cellprob, shape, options, labels);
  });
}

void end_points(const Place& place, const FloatView& dP, const MaskView& mask, int64_t n_steps,
                Sampling sampling, const Window& window, float* points, int64_t n_points) {
  run_at(place, [&](Exec& exec) {
    cellpost::end_points(exec, dP, mask, n_steps, sampling, window, points, n_points);
  });
}

int64_t count_foreground(const Place& place, const MaskView& mask, const Shape& shape) {
  return run_at(place, [&](Exec& exec) { return cellpost::count_foreground(exec, mask, shape); });
}

int64_t endpoints_to_labels(const Place& place, const FloatView& points, const MaskView& mask,
                            const Shape& shape, double max_size_fraction, int32_t* labels) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::endpoints_to_labels(exec, points, mask, shape, max_size_fraction, labels);
  });
}

void masks_to_flows(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                    int64_t niter, float* flows) {
  run_at(place,
         [&](Exec& exec) { cellpost::masks_to_flows(exec, labels, shape, n, niter, flows); });
}

void flow_error(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                const FloatView& dP, double* errors, int64_t n_errors) {
  run_at(place,
         [&](Exec& exec) { cellpost::flow_error(exec, labels, shape, n, dP, errors, n_errors); });
}

FilterReport remove_bad_flows(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                              const FloatView& dP, double threshold) {
  return run_at(place, [&](Exec& exec) {
    return cellpost::remove_bad_flows(exec, labels, shape, n, dP, threshold);
  });
}

}  // namespace cellpost::cuda
