#include "cpu/flows.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

FlowReport follow_flows(const FloatView& dP, const FloatView& cellprob, const Shape& shape,
                        const FollowOptions& options, int32_t* labels) {
  Exec exec;
  return cellpost::follow_flows(exec, dP, cellprob, shape, options, labels);
}

void end_points(const FloatView& dP, const MaskView& mask, int64_t n_steps, Sampling sampling,
                const Window& window, float* points, int64_t n_points) {
  Exec exec;
  cellpost::end_points(exec, dP, mask, n_steps, sampling, window, points, n_points);
}

int64_t count_foreground(const MaskView& mask, const Shape& shape) {
  Exec exec;
  return cellpost::count_foreground(exec, mask, shape);
}

int64_t endpoints_to_labels(const FloatView& points, const MaskView& mask, const Shape& shape,
                            double max_size_fraction, int32_t* labels) {
  Exec exec;
  return cellpost::endpoints_to_labels(exec, points, mask, shape, max_size_fraction, labels);
}

void masks_to_flows(int32_t* labels, const Shape& shape, int64_t n, int64_t niter, float* flows) {
  Exec exec;
  cellpost::masks_to_flows(exec, labels, shape, n, niter, flows);
}

void flow_error(int32_t* labels, const Shape& shape, int64_t n, const FloatView& dP, double* errors,
                int64_t n_errors) {
  Exec exec;
  cellpost::flow_error(exec, labels, shape, n, dP, errors, n_errors);
}

FilterReport remove_bad_flows(int32_t* labels, const Shape& shape, int64_t n, const FloatView& dP,
                              double threshold) {
  Exec exec;
  return cellpost::remove_bad_flows(exec, labels, shape, n, dP, threshold);
}

}  // namespace cellpost::cpu
