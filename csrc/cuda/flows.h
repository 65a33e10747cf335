// The flows family on a CUDA device, in stream order. Contracts are those of pipeline/flows.h.
#pragma once

#include "core/place.h"
#include "pipeline/flows.h"

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
                const FloatView& dP, double* errors, int64_t n_errors);
FilterReport remove_bad_flows(const Place& place, int32_t* labels, const Shape& shape, int64_t n,
                              const FloatView& dP, double threshold);

}  // namespace cellpost::cuda
