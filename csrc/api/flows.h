// C++ contract of the flows family: checks its arguments, then runs on the device they are on.
// Outputs are allocated by the caller. Errors are std::invalid_argument (an argument is wrong) and
// std::runtime_error (CUDA is not built or failed). The Python docstrings describe the semantics.
#pragma once

#include "api/array.h"
#include "pipeline/flows.h"

namespace cellpost::api {

FlowReport follow_flows(const Array& dP, const Array& cellprob, const FollowOptions& options,
                        const Array& labels);

/// Number of true pixels of a mask.
int64_t count_foreground(const Array& mask);

/// dP and mask are a window of an image of shape `global`, its first pixel at `offset`; points
/// that leave the window get NaN. Empty vectors: they are the whole image.
void flow_endpoints(const Array& dP, const Array& mask, int64_t niter, Sampling sampling,
                    const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                    const Array& endpoints);

int64_t endpoints_to_labels(const Array& endpoints, const Array& mask, double max_size_fraction,
                            const Array& labels);

/// niter < 0: taken from the largest object.
void masks_to_flows(const Array& labels, int64_t niter, const Array& flows);
void flow_error(const Array& labels, const Array& dP, const Array& errors);
FilterReport remove_bad_flows(const Array& labels, const Array& dP, double threshold);

}  // namespace cellpost::api
