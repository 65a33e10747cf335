// Sequences of the label stages, written once for both devices.
//
// Exec is where they run: cpu::Exec or cuda::Exec. It offers
//   Buffer<T> alloc<T>(n)                 scratch, freed with the buffer
//   Buffer<T> copy_in(host, n)           scratch with what stands in host memory
//   fill(p, n, value)                     every element
//   for_each(n, job)                      job(i) for i in [0, n), in any order
//   for_each_object(n, job)               the same for jobs that look at a whole object
//   for_each_pixel(rows, width, job)      job(row, x)
//   apply_map(map, labels, n)             labels[i] = map[labels[i]] where that is not 0
//   for_each_run(labels, rows, width, job)  job(id, row, x, end) for runs of one id in a row
//   Buffer<T> select<T>(first, n, pred)   the i in [first, n) with pred(i), ascending
//   sort_by(keys, values)                 both ascending by key, stable
//   int64_t scan(counts, n)               in place: exclusive sums; returns the total
//   int64_t sum(values, n),  T read(p)    a value brought to the host
//   std::vector<T> copy_out(p, n)         values brought to the host
// and the stages that each device has its own kernel for (see pipeline/flows.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/labels.h"
#include "core/labels_fragments.h"
#include "core/labels_holes.h"
#include "pipeline/components.h"

namespace cellpost {

enum class Nested : int { keep = 0, overwrite = 1 };
enum class Fragments : int { keep = 0, largest = 1, split = 2 };

struct GatherBoxPixels {
  ObjectTable table;
  const int32_t* ids;
  int64_t* out;
  CELLPOST_FN void operator()(int64_t i) const { out[i] = table.box_pixels(ids[i]); }
};

struct GatherHoleScratch {
  ObjectTable table;
  const int32_t* ids;
  int64_t* out;
  CELLPOST_FN void operator()(int64_t i) const { out[i] = hole_scratch(table, ids[i]); }
};

struct LargestHoleScratch {
  ObjectTable table;
  const int32_t* ids;
  int64_t* most;
  CELLPOST_FN void operator()(int64_t i) const { atomic_max(most, hole_scratch(table, ids[i])); }
};

struct IsPresent {
  const int64_t* size;
  CELLPOST_FN bool operator()(int64_t id) const { return size[id] > 0; }
};

struct IsSet {
  const int32_t* flags;
  CELLPOST_FN bool operator()(int64_t id) const { return flags[id] != 0; }
};

/// Most pixels an object may have.
inline int64_t largest_allowed(const Shape& shape, double fraction) {
  const double limit = std::floor(static_cast<double>(shape.pixels()) * fraction);
  return limit < 9e18 ? static_cast<int64_t>(limit) : INT64_MAX;
}

/// The objects of a label image with ids up to n: their table, which are kept, and the filters.
template <class Exec>
class Objects {
 public:
  Objects(Exec& exec, Shape shape, int32_t* labels, int64_t n)
      : exec_(exec), shape_(shape), labels_(labels) {
    resize(n);
    measure();
  }

  /// (Re)fills the table and keeps every object.
  void measure() {
    exec_.for_each(table_.n + 1, ClearObject{table_});
    exec_.for_each_run(labels_, shape_.rows(), shape_.x, MeasureObjects{shape_, table_});
    exec_.fill(map_.data(), table_.n + 1, int32_t{1});
  }

  const ObjectTable& table() const { return table_; }
  const Shape& shape() const { return shape_; }
  int32_t* labels() const { return labels_; }
  int32_t* map() { return map_.data(); }

  int64_t n_pixels() { return exec_.sum(table_.size, table_.n + 1); }
  auto kept() {
    return exec_.template select<int32_t>(1, table_.n + 1, IsKept{table_.size, map()});
  }

  /// Keeps objects of minimum..maximum pixels.
  void drop_by_size(int64_t minimum, int64_t maximum) {
    exec_.for_each(table_.n + 1, DropBySize{table_.size, minimum, maximum, map()});
  }

  /// Clears the pixels of dropped objects; ids stay.
  void apply_keeping_ids() {
    exec_.for_each(table_.n + 1, KeepId{map()});
    apply();
  }

  /// Clears dropped objects and numbers the others 1..N in raster order of first appearance, in the
  /// table, too. Returns N.
  int64_t renumber() {
    auto ids = kept();
    auto first = exec_.template alloc<int64_t>(ids.size());
    exec_.for_each(ids.size(), Gather<int64_t>{table_.first, ids.data(), first.data()});
    exec_.sort_by(first, ids);
    exec_.fill(map(), table_.n + 1, int32_t{0});
    exec_.for_each(ids.size(), NumberByRank{ids.data(), map()});
    apply();
    const auto old_longs = std::move(longs_);
    const auto old_ints = std::move(ints_);
    const ObjectTable old = table_;
    resize(ids.size());
    exec_.for_each(1, ClearObject{table_});
    exec_.for_each(ids.size(), PermuteObjects{old, table_, ids.data()});
    exec_.fill(map(), table_.n + 1, int32_t{1});
    return ids.size();
  }

  struct Filled {
    int64_t n_pixels;  ///< background pixels, and with overwrite also others', that were filled
    int64_t n_nested;  ///< objects that vanished
  };

  /// Fills the holes of all objects. The table is fresh afterwards.
  Filled fill_holes(Nested nested) {
    auto ids = kept();
    if (ids.size() == 0) return {0, 0};
    const int64_t before = n_pixels();
    auto has_hole = exec_.template alloc<int32_t>(table_.n + 1);
    exec_.fill(has_hole.data(), table_.n + 1, int32_t{0});
    const Holes holes{labels_, shape_, table_};
    int64_t n_overwritten = 0;
    {
      const int64_t n = ids.size();
      auto box = exec_.template alloc<int64_t>(n);
      exec_.for_each(n, GatherBoxPixels{table_, ids.data(), box.data()});
      auto by_box = kept();
      exec_.sort_by(box, by_box);
      flood_holes(by_box, has_hole.data(), [&](const HoleBatch& batch, int64_t n_batch) {
        if (nested == Nested::keep) {
          exec_.for_each_object(n_batch, ClaimHoles{holes, batch, has_hole.data(), n});
        }
      });
      if (exec_.template select<int32_t>(1, table_.n + 1, IsSet{has_hole.data()}).size() == 0) {
        return {0, 0};
      }
      if (nested == Nested::keep) {
        exec_.for_each(shape_.pixels(), SettleClaims{by_box.data(), n, labels_});
      }
    }
    if (nested == Nested::overwrite) {
      auto scratch = exec_.template alloc<uint64_t>(largest_scratch(ids));
      auto counter = exec_.template alloc<int64_t>(1);
      exec_.fill(counter.data(), 1, int64_t{0});
      exec_.for_each(1, OverwriteHoles{holes, ids.data(), ids.size(), has_hole.data(),
                                       scratch.data(), counter.data()});
      n_overwritten = exec_.read(counter.data());
    }
    measure();
    return {n_pixels() - before + n_overwritten, ids.size() - kept().size()};
  }

  /// By id: 1 where a kept object has a hole, else 0.
  auto find_holes() {
    auto ids = kept();
    auto has_hole = exec_.template alloc<int32_t>(table_.n + 1);
    exec_.fill(has_hole.data(), table_.n + 1, int32_t{0});
    if (ids.size() > 0) flood_holes(ids, has_hole.data(), [](const HoleBatch&, int64_t) {});
    return has_hole;
  }

  /// Separated parts of one label: keeps the largest (the first of equals), or gives each an id of
  /// its own. The table is fresh afterwards. Returns how many parts were dropped or added.
  int64_t resolve_fragments(Fragments mode) {
    if (mode == Fragments::keep) return 0;
    Components<Exec, LabelRows> pieces(exec_, shape_, {labels_, shape_.x}, shape_.ndim);
    const Runs& runs = pieces.runs();
    auto roots = pieces.roots();
    const int64_t n_added = roots.size() - kept().size(), width = shape_.x;
    if (n_added == 0) return 0;
    auto chosen = exec_.template alloc<int64_t>(table_.n + 1);  // by id
    exec_.fill(chosen.data(), table_.n + 1, kNowhere);
    if (mode == Fragments::largest) {
      auto size = pieces.sizes();
      auto best_size = exec_.template alloc<int64_t>(table_.n + 1);
      exec_.fill(best_size.data(), table_.n + 1, int64_t{0});
      exec_.for_each(roots.size(), LargestSize{labels_, width, runs, roots.data(), size.data(),
                                               best_size.data()});
      exec_.for_each(roots.size(), LargestRoot{labels_, width, runs, roots.data(), size.data(),
                                               best_size.data(), chosen.data()});
      exec_.for_each(runs.n, KeepLargest{width, runs, pieces.sets(), chosen.data(), labels_});
    } else {
      auto id_of_root = exec_.template alloc<int32_t>(runs.n);
      auto is_later = exec_.template alloc<int64_t>(roots.size());
      exec_.for_each(roots.size(), FirstRoot{labels_, width, runs, roots.data(), chosen.data()});
      exec_.for_each(roots.size(),
                     MarkLater{labels_, width, runs, roots.data(), chosen.data(), is_later.data()});
      exec_.scan(is_later.data(), roots.size());
      exec_.for_each(roots.size(), NameFragment{labels_, width, runs, roots.data(), chosen.data(),
                                                is_later.data(), table_.n, id_of_root.data()});
      pieces.write_ids(id_of_root.data(), labels_);
      resize(table_.n + n_added);
    }
    measure();
    return n_added;
  }

 private:
  /// Floods the objects, marks those with a hole, and calls then(batch, n) while the floods stand.
  /// Scratch of all objects at once would grow with objects times image where their boxes overlap:
  /// they go in batches.
  template <class Then>
  void flood_holes(typename Exec::template Buffer<int32_t>& ids, int32_t* has_hole,
                   const Then& then) {
    const int64_t n = ids.size();
    auto at = exec_.template alloc<int64_t>(n + 1);
    exec_.for_each(n, GatherHoleScratch{table_, ids.data(), at.data()});
    exec_.fill(at.data() + n, 1, int64_t{0});
    const int64_t all = exec_.scan(at.data(), n + 1);
    const int64_t words = std::min(all, std::max(shape_.pixels() / 16, largest_scratch(ids)));
    auto scratch = exec_.template alloc<uint64_t>(words);
    for (int64_t first = 0, end; first < n; first = end) {
      end = all == words ? n : batch_end(at.data(), first, n, words);
      const HoleBatch batch{ids.data(), at.data(), scratch.data(), first};
      exec_.for_each_object(end - first,
                            FindHoles{Holes{labels_, shape_, table_}, batch, has_hole});
      then(batch, end - first);
    }
  }

  int64_t largest_scratch(typename Exec::template Buffer<int32_t>& ids) {
    auto most = exec_.template alloc<int64_t>(1);
    exec_.fill(most.data(), 1, int64_t{0});
    exec_.for_each(ids.size(), LargestHoleScratch{table_, ids.data(), most.data()});
    return exec_.read(most.data());
  }

  /// End of the longest batch from `first` on whose scratch is no more than `words`.
  int64_t batch_end(const int64_t* at, int64_t first, int64_t n, int64_t words) {
    const int64_t begin = exec_.read(at + first);
    int64_t low = first + 1, high = n;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (exec_.read(at + middle) - begin <= words) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  void apply() { exec_.apply_map(map(), labels_, shape_.pixels()); }

  void resize(int64_t n) {
    longs_ = exec_.template alloc<int64_t>(5 * (n + 1));
    ints_ = exec_.template alloc<int32_t>(6 * (n + 1));
    map_ = exec_.template alloc<int32_t>(n + 1);
    table_.n = n;
    table_.size = longs_.data();
    table_.first = longs_.data() + (n + 1);
    for (int k = 0; k < 3; ++k) {
      table_.sum[k] = longs_.data() + (2 + k) * (n + 1);
      table_.low[k] = ints_.data() + k * (n + 1);
      table_.high[k] = ints_.data() + (3 + k) * (n + 1);
    }
  }

  Exec& exec_;
  Shape shape_;
  int32_t* labels_;
  ObjectTable table_{};
  typename Exec::template Buffer<int64_t> longs_;
  typename Exec::template Buffer<int32_t> ints_, map_;
};

// ---- the public filters ------------------------------------------------------------------------

struct LabelRange {
  int64_t low, high;
};

/// range[0] = the smallest label or 0, range[1] = the largest or 0.
struct FindRange {
  const int32_t* labels;
  int32_t* range;
  CELLPOST_FN void operator()(int64_t pixel) const {
    const int32_t id = labels[pixel];
    if (id < atomic_load(&range[0])) atomic_min(&range[0], id);
    if (id > atomic_load(&range[1])) atomic_max(&range[1], id);
  }
};

template <class Exec>
LabelRange label_range(Exec& exec, const int32_t* labels, const Shape& shape) {
  auto range = exec.template alloc<int32_t>(2);
  exec.fill(range.data(), 2, int32_t{0});
  exec.for_each(shape.pixels(), FindRange{labels, range.data()});
  return {exec.read(range.data()), exec.read(range.data() + 1)};
}

struct FilterReport {
  int64_t n_before = 0;   ///< objects
  int64_t n_removed = 0;  ///< objects
  int64_t n_pixels = 0;   ///< pixels cleared or filled
};

/// Runs `filter(objects)`, which drops objects, and clears their pixels; ids stay.
template <class Exec, class Filter>
FilterReport filter_objects(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                            const Filter& filter) {
  Objects<Exec> objects(exec, shape, labels, n);
  FilterReport report;
  report.n_before = objects.kept().size();
  const int64_t pixels = objects.n_pixels();
  filter(objects);
  report.n_removed = report.n_before - objects.kept().size();
  if (report.n_removed > 0) {
    objects.apply_keeping_ids();
    objects.measure();
    report.n_pixels = pixels - objects.n_pixels();
  }
  return report;
}

/// Keeps objects of minimum..maximum pixels.
template <class Exec>
FilterReport remove_by_size(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                            int64_t minimum, int64_t maximum) {
  return filter_objects(exec, labels, shape, n,
                        [&](Objects<Exec>& objects) { objects.drop_by_size(minimum, maximum); });
}

template <class Exec>
int64_t count_labels(Exec& exec, int32_t* labels, const Shape& shape, int64_t n) {
  return Objects<Exec>(exec, shape, labels, n).kept().size();
}

template <class Exec>
FilterReport fill_holes(Exec& exec, int32_t* labels, const Shape& shape, int64_t n, Nested nested) {
  Objects<Exec> objects(exec, shape, labels, n);
  const int64_t n_before = objects.kept().size();
  const auto filled = objects.fill_holes(nested);
  return {n_before, filled.n_nested, filled.n_pixels};
}

/// n_removed counts the fragments dropped ("largest") or added ("split").
template <class Exec>
FilterReport resolve_fragments(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                               Fragments mode) {
  Objects<Exec> objects(exec, shape, labels, n);
  FilterReport report;
  report.n_before = objects.kept().size();
  const int64_t pixels = objects.n_pixels();
  report.n_removed = objects.resolve_fragments(mode);
  report.n_pixels = pixels - objects.n_pixels();
  return report;
}

template <class Exec>
int64_t relabel(Exec& exec, int32_t* labels, const Shape& shape, int64_t n) {
  return Objects<Exec>(exec, shape, labels, n).renumber();
}

}  // namespace cellpost
