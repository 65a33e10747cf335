// The flows family on a CUDA device, in stream order. Contracts are those of pipeline/flows.h.
#pragma once

#include "core/place.h"
#include "pipeline/flows_window.h"

namespace cellpost::cuda {

FlowReport follow_flows(const Place& place, const FloatView& dP, const FloatView& cellprob,
                        const Shape& shape, const FollowOptions& options, int32_t* labels);
void end_points(const Place& place, const FloatView& dP, const MaskView& mask, int64_t n_steps,
                Sampling sampling, const Window& window, float* points, int64_t n_points);
int64_t count_foreground(const Place& place, const MaskView& mask, const Shape& shape);
int64_t endpoints_to_labels(const Place& place, const FloatView& points, const MaskView& mask,
                            const Shape& shape, double max_size_fraction, int32_t* labels);
void masks_to_flows(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                    int64_t niter, float* flows);
void flow_error(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                const FloatView& dP, int64_t niter, const Shape& image, double* errors,
                int64_t n_errors);
FilterReport remove_bad_flows(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                              const FloatView& dP, double threshold);

void follow_region(const Place& place, const FloatView& dP, const FloatView& cellprob,
                   const FollowOptions& options, const Window& window, const Region& region);
void bound_bins(const Place& place, const BoundBins& job, int64_t n_rows);
void count_bins(const Place& place, const int64_t* bins, const Shape& part, const Window& window,
                int32_t* counts);
std::vector<int64_t> find_seeds(const Place& place, const int32_t* counts, const Shape& shape);
void label_bins(const Place& place, const int64_t* bins, const Shape& part, const Window& window,
                const int32_t* counts, const std::vector<int64_t>& seeds, int32_t* labels);
void survey_objects(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                    int64_t* rows, int32_t* has_hole);
void map_labels(const Place& place, const int32_t* map, int32_t* labels, int64_t n);

}  // namespace cellpost::cuda
