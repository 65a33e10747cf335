// The CUDA symbols of a build without CUDA.
#include <stdexcept>

#include "cuda/flows.h"
#include "cuda/labels.h"
#include "cuda/nms.h"
#include "cuda/overlaps.h"
#include "cuda/paste.h"
#include "cuda/properties.h"
#include "cuda/runtime.h"
#include "cuda/tiles.h"
#include "cuda/watershed.h"

namespace cellpost::cuda {
namespace {

constexpr const char* kReason =
    "this build of cellpost has no CUDA kernels: build it where nvcc is found, or with "
    "CELLPOST_CUDA=ON";

[[noreturn]] void refuse() { throw std::runtime_error(kReason); }

}  // namespace

State state() { return {false, false, kReason, {}}; }

FlowReport follow_flows(const Place&, const FloatView&, const FloatView&, const Shape&,
                        const FollowOptions&, int32_t*) {
  refuse();
}
void end_points(const Place&, const FloatView&, const MaskView&, int64_t, Sampling, const Window&,
                float*, int64_t) {
  refuse();
}
int64_t count_foreground(const Place&, const MaskView&, const Shape&) { refuse(); }
int64_t endpoints_to_labels(const Place&, const FloatView&, const MaskView&, const Shape&, double,
                            int32_t*) {
  refuse();
}
void masks_to_flows(const Place&, int32_t*, const Shape&, int64_t, int64_t, float*) { refuse(); }
void flow_error(const Place&, int32_t*, const Shape&, int64_t, const FloatView&, int64_t,
                const Shape&, double*, int64_t) {
  refuse();
}
FilterReport remove_bad_flows(const Place&, int32_t*, const Shape&, int64_t, const FloatView&,
                              double) {
  refuse();
}
void follow_region(const Place&, const FloatView&, const FloatView&, const FollowOptions&,
                   const Window&, const Region&) {
  refuse();
}
void bound_bins(const Place&, const BoundBins&, int64_t) { refuse(); }
void count_bins(const Place&, const int64_t*, const Shape&, const Window&, int32_t*) { refuse(); }
std::vector<int64_t> find_seeds(const Place&, const int32_t*, const Shape&) { refuse(); }
void label_bins(const Place&, const int64_t*, const Shape&, const Window&, const int32_t*,
                const std::vector<int64_t>&, int32_t*) {
  refuse();
}
void survey_objects(const Place&, int32_t*, const Shape&, int64_t, int64_t*, int32_t*) { refuse(); }
void map_labels(const Place&, const int32_t*, int32_t*, int64_t) { refuse(); }

LabelRange label_range(const Place&, const int32_t*, const Shape&) { refuse(); }
FilterReport remove_by_size(const Place&, int32_t*, const Shape&, int64_t, int64_t, int64_t) {
  refuse();
}
FilterReport fill_holes(const Place&, int32_t*, const Shape&, int64_t, Nested) { refuse(); }
FilterReport resolve_fragments(const Place&, int32_t*, const Shape&, int64_t, Fragments) {
  refuse();
}
int64_t count_labels(const Place&, int32_t*, const Shape&, int64_t) { refuse(); }
int64_t relabel(const Place&, int32_t*, const Shape&, int64_t) { refuse(); }

int64_t measure_objects(const Place&, int32_t*, const Shape&, int64_t, const FloatView&,
                        const Properties&, int64_t) {
  refuse();
}
int64_t instance_types(const Place&, int32_t*, const Shape&, int64_t, const PixelTypes&, int32_t*,
                       double*, int64_t) {
  refuse();
}
int64_t outlines(const Place&, int32_t*, const Shape&, int64_t, int64_t*, int32_t*, int64_t) {
  refuse();
}

int64_t label(const Place&, const MaskView&, const Shape&, int, int32_t*) { refuse(); }
void fill_mask_holes(const Place&, const MaskView&, const Shape&, int, uint8_t*) { refuse(); }
void open_mask(const Place&, const MaskView&, const Shape&, const Footprint&, uint8_t*) {
  refuse();
}
int64_t watershed(const Place&, const EnergyView&, const MaskView&, const Shape&, int, int32_t*) {
  refuse();
}
HoverRanges hover_ranges(const Place&, const FloatView&, const Shape&, const HoverOptions&) {
  refuse();
}
void hover_gradients(const Place&, const FloatView&, const Shape&, const HoverOptions&, double*) {
  refuse();
}
HoverReport hover_watershed(const Place&, const FloatView&, const Shape&, const HoverOptions&,
                            int32_t*) {
  refuse();
}
HoverReport watershed_markers(const Place&, const FloatView&, const Shape&, const HoverOptions&,
                              int32_t*, double*, uint8_t*) {
  refuse();
}

PasteCounts paste(const Place&, const Paste&, double) { refuse(); }
PastedLabels number_pasted(const Place&, int32_t*, const Shape&, int64_t, int64_t, int64_t*) {
  refuse();
}

NmsResult nms(const Place&, const Candidates&, const SuppressRule&, bool, const Suppressed&,
              double*) {
  refuse();
}
NmsResult tile_nms(const Place&, const Candidates&, const SuppressRule&, const Suppressed&) {
  refuse();
}
NmsResult mask_nms(const Place&, const Paste&, const Candidates&, const SuppressRule&,
                   const Suppressed&) {
  refuse();
}

int64_t stitch(const Place&, const TileBlend&, const AxisTables (&)[3],
               const std::vector<const void*>&) {
  refuse();
}

PairCounts overlap_counts(const Place&, const int32_t*, const int32_t*, int64_t, int64_t) {
  refuse();
}
PairCounts tile_overlaps(const Place&, const TileList&, const std::vector<TilePair>&) { refuse(); }
std::vector<int32_t> bits_of_ids(const Place&, const TileList&) { refuse(); }
TileSurvey survey_tiles(const Place&, const TileList&, const ImageCores&,
                        const std::vector<TileRegion>&) {
  refuse();
}
void compose_tiles(const Place&, const TileList&, const ImageCores&, const std::vector<int32_t>&,
                   int32_t*) {
  refuse();
}

}  // namespace cellpost::cuda
