// Pasting of mask crops, written once for both devices; Exec is described in pipeline/labels.h. The
// stages that each device has its own kernel for:
//   check_crops(crops, first)   *first = the smaller of it and the first crop with a value that is
//                               not from 0 to 1
//   paste(job)                  every instance of a Paste, at the pixels of its window
#pragma once

#include "core/labels.h"
#include "core/paste.h"

namespace cellpost {

/// What became of the instances of one call.
struct PasteCounts {
  int64_t n_low_score = 0, n_degenerate = 0, n_outside = 0;
  /// Rows with a box, a score, or crop values that cannot be used; -1: none. Nothing was pasted
  /// then.
  int64_t bad_box = -1, bad_score = -1, bad_value = -1;
};

/// Puts instances into a label image in which others may be already. Their ids go on from
/// job.first_id.
template <class Exec>
PasteCounts paste(Exec& exec, Paste job, double min_score) {
  PasteCounts counts;
  const Crops& crops = job.crops;
  if (crops.n == 0) return counts;
  auto windows = exec.template alloc<PasteWindow>(crops.n);
  auto noted = exec.template alloc<int64_t>(3 + kPasteCounts);
  exec.fill(noted.data(), 3, kNowhere);
  exec.fill(noted.data() + 3, kPasteCounts, int64_t{0});
  job.windows = windows.data();
  exec.for_each(crops.n, PlanPaste{job, min_score, noted.data(), noted.data() + 3});
  exec.check_crops(crops, noted.data() + 2);
  int64_t bad[3];
  for (int k = 0; k < 3; ++k) bad[k] = exec.read(noted.data() + k);
  if (bad[0] != kNowhere || bad[1] != kNowhere || bad[2] != kNowhere) {
    counts.bad_box = bad[0] == kNowhere ? -1 : bad[0];
    counts.bad_score = bad[1] == kNowhere ? -1 : bad[1];
    counts.bad_value = bad[2] == kNowhere ? -1 : bad[2];
    return counts;
  }
  counts.n_low_score = exec.read(noted.data() + 3 + kLowScore);
  counts.n_degenerate = exec.read(noted.data() + 3 + kDegenerate);
  counts.n_outside = exec.read(noted.data() + 3 + kOutside);
  exec.paste(job);
  return counts;
}

struct PastedLabels {
  int64_t n_present;  ///< instances with a pixel
  int64_t n_labels;   ///< those of at least min_size
};

/// Numbers the instances in an image, whose ids are 1..n, in raster order of their first pixels and
/// clears those below min_size. index[label - 1] = id - 1.
template <class Exec>
PastedLabels number_pasted(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                           int64_t min_size, int64_t* index) {
  auto size = exec.template alloc<int64_t>(n + 1);
  auto first_of = exec.template alloc<int64_t>(n + 1);
  auto map = exec.template alloc<int32_t>(n + 1);
  exec.fill(size.data(), n + 1, int64_t{0});
  exec.fill(first_of.data(), n + 1, kNowhere);
  exec.fill(map.data(), n + 1, int32_t{1});
  exec.for_each_run(labels, shape.rows(), shape.x,
                    CountPasted{shape.x, size.data(), first_of.data()});
  PastedLabels found;
  const IsKept is_kept{size.data(), map.data()};
  found.n_present = exec.template select<int32_t>(1, n + 1, is_kept).size();
  exec.for_each(n + 1, DropBySize{size.data(), min_size, INT64_MAX, map.data()});
  auto ids = exec.template select<int32_t>(1, n + 1, is_kept);
  found.n_labels = ids.size();
  auto first = exec.template alloc<int64_t>(ids.size());
  exec.for_each(ids.size(), Gather<int64_t>{first_of.data(), ids.data(), first.data()});
  exec.sort_by(first, ids);
  exec.fill(map.data(), n + 1, int32_t{0});
  exec.for_each(ids.size(), NumberByRank{ids.data(), map.data()});
  exec.apply_map(map.data(), labels, shape.pixels());
  exec.for_each(ids.size(), NoteRow{ids.data(), index});
  return found;
}

}  // namespace cellpost
