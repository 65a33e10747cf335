// What becomes of an object of a label image that consists of several pieces, its components.
#pragma once

#include "core/labels_runs.h"

namespace cellpost {

/// Label of a run.
CELLPOST_FN int32_t label_of(const int32_t* labels, int64_t width, const Runs& runs, int64_t run) {
  return labels[runs.row[run] * width + runs.begin[run]];
}

/// best_size[id] = size of its largest piece; then best_root[id] = the first of that size.
struct LargestSize {
  const int32_t* labels;
  int64_t width;
  Runs runs;
  const int64_t* roots;
  const int64_t* size;  ///< by root
  int64_t* best_size;
  CELLPOST_FN void operator()(int64_t i) const {
    atomic_max(&best_size[label_of(labels, width, runs, roots[i])], size[roots[i]]);
  }
};
struct LargestRoot {
  const int32_t* labels;
  int64_t width;
  Runs runs;
  const int64_t* roots;
  const int64_t* size;
  const int64_t* best_size;
  int64_t* best_root;
  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = label_of(labels, width, runs, roots[i]);
    if (size[roots[i]] == best_size[id]) atomic_min(&best_root[id], roots[i]);
  }
};
struct KeepLargest {
  int64_t width;
  Runs runs;
  UnionFind sets;
  const int64_t* best_root;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t run) const {
    if (sets.load(run) == best_root[label_of(labels, width, runs, run)]) return;
    int32_t* const line = labels + runs.row[run] * width;
    for (int32_t x = runs.begin[run]; x < runs.end[run]; ++x) line[x] = 0;
  }
};

/// first_root[id] = its first piece.
struct FirstRoot {
  const int32_t* labels;
  int64_t width;
  Runs runs;
  const int64_t* roots;
  int64_t* first_root;
  CELLPOST_FN void operator()(int64_t i) const {
    atomic_min(&first_root[label_of(labels, width, runs, roots[i])], roots[i]);
  }
};
struct MarkLater {
  const int32_t* labels;
  int64_t width;
  Runs runs;
  const int64_t* roots;
  const int64_t* first_root;
  int64_t* marks;
  CELLPOST_FN void operator()(int64_t i) const {
    marks[i] = roots[i] != first_root[label_of(labels, width, runs, roots[i])] ? 1 : 0;
  }
};
/// The first piece keeps the object's id, the others get ids above n in raster order.
struct NameFragment {
  const int32_t* labels;
  int64_t width;
  Runs runs;
  const int64_t* roots;
  const int64_t* first_root;
  const int64_t* n_later_before;
  int64_t n;
  int32_t* id_of_root;
  CELLPOST_FN void operator()(int64_t i) const {
    const int32_t id = label_of(labels, width, runs, roots[i]);
    id_of_root[roots[i]] =
        roots[i] == first_root[id] ? id : static_cast<int32_t>(n + 1 + n_later_before[i]);
  }
};

}  // namespace cellpost
