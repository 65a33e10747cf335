// The stages of flow following on a window of an image, with what is global as an input: the slide
// path calls them block by block, with the functors of the in-memory call (pipeline/flows.h). 2D.
#pragma once

#include <vector>

#include "core/flows_window.h"
#include "pipeline/flows.h"

namespace cellpost {

/// Follows the points that `region` waits for. Their bins are of the whole image; kEscaped stays
/// where a point left the window, kNoPoint is background.
template <class Exec>
void follow_region(Exec& exec, const FloatView& dP, const FloatView& cellprob,
                   const FollowOptions& options, const Window& window, const Region& region) {
  const int64_t n = window.shape.pixels(), width = window.shape.x;
  OwnedIndexImage<Exec> ends(exec, n, needs_wide_index(window.global.pixels()));
  with_known_dtype(cellprob, [&](const auto& map) {
    trace_points(exec, options.sampling, dP,
                 AboveThreshold<std::decay_t<decltype(map)>>{map, options.cellprob_threshold},
                 options.n_steps, window, ends.get(), [&](const IndexImage& marked) {
                   exec.for_each_pixel(window.shape.y, width, KeepPending{region, marked, width});
                   return TraceOutput{marked, nullptr, 0, window};
                 });
  });
  exec.for_each_pixel(region.height, region.width, TakePending{region, ends.get(), width});
}

/// Boxes of the bins by cell of a grid; see BoundBins.
template <class Exec>
void bound_bins(Exec& exec, const BoundBins& job, int64_t n_rows) {
  exec.for_each_object(n_rows, job);
}

/// Calls use(ends) with the bins of the whole image as bins of the window.
template <class Exec, class Use>
void with_local_bins(Exec& exec, const int64_t* bins, const Shape& part, const Window& window,
                     const Use& use) {
  OwnedIndexImage<Exec> ends(exec, part.pixels(), needs_wide_index(window.shape.pixels()));
  exec.for_each_object(part.y, LocalBins{bins, part.x, window, ends.get()});
  use(ends.get());
}

/// Adds the bins that lie in the window to its counts.
template <class Exec>
void count_bins(Exec& exec, const int64_t* bins, const Shape& part, const Window& window,
                int32_t* counts) {
  with_local_bins(exec, bins, part, window,
                  [&](const IndexImage& ends) { exec.count_bins(ends, part.pixels(), counts); });
}

/// Linear indices of a window's seeds.
template <class Exec>
std::vector<int64_t> find_seeds(Exec& exec, const int32_t* counts, const Shape& shape) {
  auto seeds = exec.template select<int64_t>(0, shape.pixels(), IsSeed{counts, shape});
  return exec.copy_out(seeds.data(), seeds.size());
}

/// Labels of the pixels whose bins lie in the window, 0 elsewhere: 1 + the place of the seed in the
/// list, which is in ascending order of rank.
template <class Exec>
void label_bins(Exec& exec, const int64_t* bins, const Shape& part, const Window& window,
                const int32_t* counts, const std::vector<int64_t>& seeds, int32_t* labels) {
  const Shape& shape = window.shape;
  auto label_of_bin = exec.template alloc<int32_t>(shape.pixels());
  exec.fill(label_of_bin.data(), shape.pixels(), int32_t{0});
  const auto n = static_cast<int64_t>(seeds.size());
  auto sources = exec.copy_in(seeds.data(), n);
  exec.for_each_object(n, GrowSeed<2>{sources.data(), counts, shape, label_of_bin.data()});
  with_local_bins(exec, bins, part, window, [&](const IndexImage& ends) {
    exec.for_each(part.pixels(), AssignLabel{ends, label_of_bin.data(), labels});
  });
}

/// A row an id: pixels, first pixel, box (low y, low x, high y, high x).
struct WriteObject {
  ObjectTable table;
  int64_t* rows;
  CELLPOST_FN void operator()(int64_t i) const {
    const int64_t id = i + 1;
    int64_t* const row = rows + 6 * i;
    row[0] = table.size[id];
    row[1] = table.first[id];
    row[2] = table.low[1][id];
    row[3] = table.low[2][id];
    row[4] = table.high[1][id];
    row[5] = table.high[2][id];
  }
};

/// Measures the objects 1..n of a label image, and says which have a hole.
template <class Exec>
void survey_objects(Exec& exec, int32_t* labels, const Shape& shape, int64_t n, int64_t* rows,
                    int32_t* has_hole) {
  Objects<Exec> objects(exec, shape, labels, n);
  exec.for_each(n, WriteObject{objects.table(), rows});
  if (has_hole == nullptr) return;
  auto by_id = objects.find_holes();
  exec.for_each(n, Copy<int32_t>{by_id.data() + 1, has_hole});
}

}  // namespace cellpost
