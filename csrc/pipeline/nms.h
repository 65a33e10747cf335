// Suppression and merging of overlapping detections, written once for both devices; Exec is
// described in pipeline/labels.h. The stage that each device has its own kernel for:
//   fill_bits(job, bits)   the pixels of every instance of a Paste that has a window
#pragma once

#include <algorithm>

#include "core/nms.h"
#include "pipeline/paste.h"

namespace cellpost {

/// Detections by row: what all the functions take.
struct Candidates {
  FloatView boxes;  ///< (n, 4)
  int64_t n;
  const double* scores;
  const int64_t* classes;    ///< or null: only those of one class suppress each other
  const PasteWindow* tiles;  ///< what the tile of each covers, or null: see TileOverlap
};

struct SuppressRule {
  OverlapMetric metric;
  double threshold;
  bool inclusive;
};

/// Row by row what became of the detections.
struct Suppressed {
  int64_t* keep;    ///< rows that stay, best first; room for n
  int64_t* keeper;  ///< of each row the row of a keeper; where boxes are merged, of the best
};

/// Of all masks' boxes together: 16 GiB of bits.
constexpr int64_t kMostMaskPixels = int64_t{1} << 37;

struct NmsResult {
  int64_t n_kept = 0;
  int64_t bad_box = -1, bad_score = -1, bad_value = -1;  ///< first row that cannot be used
  int64_t n_too_many = 0;  ///< pixels of all masks' boxes, if they are too many to be held
};

template <class Exec, class Real>
struct Ranked {
  typename Exec::template Buffer<int32_t> order;   ///< row by rank
  typename Exec::template Buffer<int32_t> keeper;  ///< rank by rank
  typename Exec::template Buffer<Real> boxes;
  typename Exec::template Buffer<int64_t> classes;
};

/// The boxes of some ranks, ascending, by place.
template <class Exec, class Real>
class BoxIndex {
 public:
  BoxIndex(Exec& exec, const Real* boxes, typename Exec::template Buffer<int32_t>& ranks) {
    const int64_t n = ranks.size();
    members_ = exec.template alloc<int32_t>(n);
    of_class_ = exec.template alloc<int32_t>(n);
    exec.for_each(n, Copy<int32_t>{ranks.data(), members_.data()});
    exec.for_each(n, Copy<int32_t>{ranks.data(), of_class_.data()});
    int64_t n_buckets = 64;
    while (n_buckets < 2 * n) n_buckets *= 2;
    auto key = exec.template alloc<int64_t>(n);
    auto of_class = exec.template alloc<int64_t>(n);
    start_ = exec.template alloc<int64_t>(n_buckets + 1);
    class_start_ = exec.template alloc<int64_t>(kSizeClasses + 1);
    near_ = exec.template alloc<Real>(4 * n);
    table_.boxes = {boxes};
    table_.n_buckets = n_buckets;
    table_.members = members_.data();
    exec.for_each(n, EnterBox<Real>{table_, key.data(), of_class.data()});
    exec.sort_by(of_class, of_class_);
    exec.sort_by(key, members_);
    exec.for_each(n + 1, FindStarts{of_class.data(), n, kSizeClasses, class_start_.data()});
    exec.for_each(n + 1, FindStarts{key.data(), n, n_buckets, start_.data()});
    exec.for_each(n, CopyBox<Real>{{boxes}, members_.data(), near_.data()});
    table_.members = members_.data();
    table_.near = near_.data();
    table_.start = start_.data();
    table_.of_class = of_class_.data();
    table_.class_start = class_start_.data();
  }
  const BoxTable<Real>& table() const { return table_; }

 private:
  typename Exec::template Buffer<int32_t> members_, of_class_;
  typename Exec::template Buffer<int64_t> start_, class_start_;
  typename Exec::template Buffer<Real> near_;
  BoxTable<Real> table_{};
};

/// Decides who stays; `overlap` is about ranks. With `finds_best` the keepers are the best ones
/// that suppress each, else any.
template <class Exec, class Real, class Overlap>
void suppress(Exec& exec, Ranked<Exec, Real>& ranked, bool has_classes, const Overlap& overlap,
              double least_ratio, bool finds_best) {
  constexpr int64_t kFirstWave = 4096;
  using Job = Suppress<Real, Overlap>;
  const int64_t n = ranked.order.size();
  int32_t* const keeper = ranked.keeper.data();
  const RankedBoxes<Real> boxes{ranked.boxes.data()};
  exec.for_each(n, StartKeeper<Real>{boxes, keeper});
  Job job{{},    overlap,   has_classes ? ranked.classes.data() : nullptr, least_ratio, keeper,
          false, finds_best};
  for (int64_t begin = 0, end; begin < n; begin = end) {
    end = std::min(n, std::max(kFirstWave, 2 * begin));
    if (begin > 0) {
      auto keepers = exec.template select<int32_t>(0, begin, CanKeep<Real>{boxes, keeper});
      const BoxIndex<Exec, Real> kept(exec, ranked.boxes.data(), keepers);
      job.table = kept.table();
      job.is_last = false;
      auto fresh = exec.template select<int32_t>(begin, end, IsUndecided{keeper});
      exec.for_each_object(fresh.size(), Listed<Job>{job, fresh.data()});
    }
    auto left = exec.template select<int32_t>(begin, end, IsUndecided{keeper});
    const BoxIndex<Exec, Real> rest(exec, ranked.boxes.data(), left);
    job.table = rest.table();
    job.is_last = true;
    while (left.size() > 0) {
      exec.for_each_object(left.size(), Listed<Job>{job, left.data()});
      left = exec.template select<int32_t>(begin, end, IsUndecided{keeper});
    }
  }
}

/// Sorts the detections; false, and the rows in `result`, if a number is not finite.
template <class Exec, class Real>
bool rank(Exec& exec, const Candidates& given, Ranked<Exec, Real>& ranked, NmsResult& result) {
  const int64_t n = given.n;
  auto keys = exec.template alloc<int64_t>(n);
  auto bad = exec.template alloc<int64_t>(2);
  exec.fill(bad.data(), 2, kNowhere);
  ranked.order = exec.template alloc<int32_t>(n);
  ranked.keeper = exec.template alloc<int32_t>(n);
  exec.for_each(
      n, StartRanks{given.boxes, given.scores, keys.data(), ranked.order.data(), bad.data()});
  const int64_t bad_box = exec.read(bad.data()), bad_score = exec.read(bad.data() + 1);
  if (bad_box != kNowhere) result.bad_box = bad_box;
  if (bad_score != kNowhere) result.bad_score = bad_score;
  if (bad_box != kNowhere || bad_score != kNowhere) return false;
  exec.sort_by(keys, ranked.order);
  ranked.boxes = exec.template alloc<Real>(4 * n);
  exec.for_each(n, RankBoxes<Real>{given.boxes, ranked.order.data(), ranked.boxes.data()});
  if (given.classes != nullptr) {
    ranked.classes = exec.template alloc<int64_t>(n);
    exec.for_each(n, Gather<int64_t>{given.classes, ranked.order.data(), ranked.classes.data()});
  }
  return true;
}

/// Ranks that stay.
template <class Exec, class Real>
auto write_kept(Exec& exec, Ranked<Exec, Real>& ranked, const Suppressed& out) {
  const int64_t n = ranked.order.size();
  auto kept = exec.template select<int32_t>(0, n, IsKeeper{ranked.keeper.data()});
  exec.for_each(kept.size(), WriteKeep{kept.data(), ranked.order.data(), out.keep});
  exec.for_each(n, WriteKeeper{ranked.keeper.data(), ranked.order.data(), out.keeper});
  return kept;
}

/// By their boxes. `merged`, if not null, has room for n rows: the boxes of those that stay, grown
/// by those they suppressed.
template <class Real, class Exec>
NmsResult nms(Exec& exec, const Candidates& given, const SuppressRule& rule, const Suppressed& out,
              double* merged) {
  NmsResult result;
  Ranked<Exec, Real> ranked;
  if (given.n == 0 || !rank(exec, given, ranked, result)) return result;
  const bool has_classes = given.classes != nullptr;
  const BoxOverlap<Real> overlap{
      {ranked.boxes.data()}, rule.metric, rule.threshold, rule.inclusive};
  const double ratio = rule.metric == OverlapMetric::iou ? rule.threshold : 0.0;
  suppress(exec, ranked, has_classes, overlap, ratio, merged != nullptr);
  auto kept = write_kept(exec, ranked, out);
  result.n_kept = kept.size();
  if (merged != nullptr) {
    const int64_t n = given.n;
    auto keepers = exec.template alloc<int64_t>(n);
    auto members = exec.template alloc<int32_t>(n);
    exec.for_each(n, StartMembers{ranked.keeper.data(), keepers.data(), members.data()});
    exec.sort_by(keepers, members);
    exec.for_each_object(kept.size(),
                         MergeGroup<Real>{{{nullptr}, rule.metric, rule.threshold, true},
                                          {ranked.boxes.data()},
                                          kept.data(),
                                          keepers.data(),
                                          members.data(),
                                          n,
                                          merged});
  }
  return result;
}

/// By the parts of their boxes that the tiles they come from share.
template <class Exec>
NmsResult tile_nms(Exec& exec, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out) {
  NmsResult result;
  Ranked<Exec, double> ranked;
  if (given.n == 0 || !rank(exec, given, ranked, result)) return result;
  const TileOverlap overlap{{{ranked.boxes.data()}, rule.metric, rule.threshold, rule.inclusive},
                            ranked.order.data(),
                            given.tiles};
  suppress(exec, ranked, given.classes != nullptr, overlap, 0.0, false);
  result.n_kept = write_kept(exec, ranked, out).size();
  return result;
}

/// By the pixels of their masks; `job` says where these are, its scores and labels are not used.
template <class Exec>
NmsResult mask_nms(Exec& exec, Paste job, const Candidates& given, const SuppressRule& rule,
                   const Suppressed& out) {
  NmsResult result;
  Ranked<Exec, double> ranked;
  const int64_t n = given.n;
  if (n == 0 || !rank(exec, given, ranked, result)) return result;
  auto windows = exec.template alloc<PasteWindow>(n);
  auto start = exec.template alloc<int64_t>(n + 1);
  auto areas = exec.template alloc<int64_t>(n);
  job.windows = windows.data();
  auto noted = exec.template alloc<int64_t>(1);
  auto bad = exec.template alloc<int64_t>(2);
  exec.fill(noted.data(), 1, int64_t{0});
  exec.fill(bad.data(), 2, kNowhere);
  exec.for_each(n, FindWindow{job, start.data(), bad.data() + 1, noted.data()});
  exec.fill(start.data() + n, 1, int64_t{0});
  const int64_t bad_box = exec.read(bad.data() + 1), n_thousands = exec.read(noted.data());
  if (bad_box != kNowhere) {
    result.bad_box = bad_box;
    return result;
  }
  if (n_thousands > kMostMaskPixels / 64000) {
    result.n_too_many = n_thousands < INT64_MAX / 64000 ? n_thousands * 64000 : INT64_MAX;
    return result;
  }
  exec.check_crops(job.crops, bad.data());
  const int64_t bad_value = exec.read(bad.data());
  if (bad_value != kNowhere) {
    result.bad_value = bad_value;
    return result;
  }
  auto words = exec.template alloc<uint64_t>(exec.scan(start.data(), n + 1));
  const InstanceBits bits{windows.data(), start.data(), words.data()};
  exec.fill_bits(job, bits);
  exec.for_each_object(n, CountArea{bits, areas.data()});
  // What is looked for in the table of boxes are the windows.
  exec.for_each(n, RankWindows{windows.data(), ranked.order.data(), ranked.boxes.data()});
  const MaskOverlap overlap{bits,        ranked.order.data(), areas.data(),
                            rule.metric, rule.threshold,      given.tiles};
  suppress(exec, ranked, given.classes != nullptr, overlap, 0.0, false);
  result.n_kept = write_kept(exec, ranked, out).size();
  return result;
}

}  // namespace cellpost
