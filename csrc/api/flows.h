// C++ contract of the flows family: checks its arguments, then runs on the device they are on.
// Outputs are allocated by the caller. Errors are std::invalid_argument (an argument is wrong) and
// std::runtime_error (CUDA is not built or failed). The Python docstrings describe the semantics.
#pragma once

#include <optional>

#include "api/array.h"
#include "pipeline/flows_window.h"

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
/// The labels may be a window of an image of shape `global` (empty: they are the image), whose
/// largest object then gives `niter`.
void flow_error(const Array& labels, const Array& dP, int64_t niter,
                const std::vector<int64_t>& global, const Array& errors);
FilterReport remove_bad_flows(const Array& labels, const Array& dP, double threshold);

// ---- windows of a 2D image of shape `global`; `offset`: of a window's first pixel
// -----------------

/// Follows those points of a region of the window whose bin is -2: bins (h, w) int64 become linear
/// indices of the whole image, -1 for background, and stay -2 where a point left the window.
void follow_region(const Array& dP, const Array& cellprob, const FollowOptions& options,
                   const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                   const std::vector<int64_t>& region, const Array& bins);
/// Widens the boxes (n, 4) of the bins by cell of a grid of cells of `side`.
void bound_bins(const Array& bins, const std::vector<int64_t>& global,
                const std::vector<int64_t>& side, const Array& boxes);
/// Adds the bins that lie in the window to its counts.
void count_bins(const Array& bins, const std::vector<int64_t>& offset,
                const std::vector<int64_t>& global, const Array& counts);
/// Linear indices of the seeds of a window.
std::vector<int64_t> find_seeds(const Array& counts);
/// Labels of the pixels whose bins lie in the window of the counts, 0 elsewhere: 1 + the place in
/// the list of seeds, linear indices of the window in ascending order of rank.
void label_bins(const Array& bins, const Array& counts, const std::vector<int64_t>& seeds,
                const std::vector<int64_t>& offset, const std::vector<int64_t>& global,
                const Array& labels);
/// Objects 1..n: rows (n, 6) of pixels, first pixel, box (y0, x0, y1, x1), and which have a hole.
void survey_objects(const Array& labels, const Array& rows, const std::optional<Array>& has_hole);
/// labels[i] = map[labels[i]], in place; 0 stays.
void map_labels(const Array& labels, const Array& map);

}  // namespace cellpost::api
