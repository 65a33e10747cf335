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

void flow_error(int32_t* labels, const Shape& shape, int64_t n, const FloatView& dP, int64_t niter,
                const Shape& image, double* errors, int64_t n_errors) {
  Exec exec;
  cellpost::flow_error(exec, labels, shape, n, dP, niter, image, errors, n_errors);
}

FilterReport remove_bad_flows(int32_t* labels, const Shape& shape, int64_t n, const FloatView& dP,
                              double threshold) {
  Exec exec;
  return cellpost::remove_bad_flows(exec, labels, shape, n, dP, threshold);
}

void follow_region(const FloatView& dP, const FloatView& cellprob, const FollowOptions& options,
                   const Window& window, const Region& region) {
  Exec exec;
  cellpost::follow_region(exec, dP, cellprob, options, window, region);
}

void bound_bins(const BoundBins& job, int64_t n_rows) {
  Exec exec;
  cellpost::bound_bins(exec, job, n_rows);
}

void count_bins(const int64_t* bins, const Shape& part, const Window& window, int32_t* counts) {
  Exec exec;
  cellpost::count_bins(exec, bins, part, window, counts);
}

std::vector<int64_t> find_seeds(const int32_t* counts, const Shape& shape) {
  Exec exec;
  return cellpost::find_seeds(exec, counts, shape);
}

void label_bins(const int64_t* bins, const Shape& part, const Window& window, const int32_t* counts,
                const std::vector<int64_t>& seeds, int32_t* labels) {
  Exec exec;
  cellpost::label_bins(exec, bins, part, window, counts, seeds, labels);
}

void survey_objects(int32_t* labels, const Shape& shape, int64_t n, int64_t* rows,
                    int32_t* has_hole) {
  Exec exec;
  cellpost::survey_objects(exec, labels, shape, n, rows, has_hole);
}

void map_labels(const int32_t* map, int32_t* labels, int64_t n) {
  Exec exec;
  exec.apply_map(map, labels, n);
}

}  // namespace cellpost::cpu
