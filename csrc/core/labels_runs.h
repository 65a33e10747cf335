// Connected components of binary images, and of label images, where pixels belong together if they
// touch and have the same label. The unit is the horizontal run of such pixels, not the pixel:
// there are some twenty times fewer, what is known of a component is summed over its runs, and in
// raster order of the runs a component's first one holds its first pixel. Runs of neighbouring rows
// that touch are united; the root of a component is its first run, whatever the order of execution.
#pragma once

#include "core/atomic.h"
#include "core/bits.h"
#include "core/union_find.h"

namespace cellpost {

/// The set pixels of a binary image, or those not set.
struct BitRows {
  BitImage bits;
  bool inverted;

  /// Calls visit(begin, end) for the runs of a row, from the left.
  template <class Visit>
  CELLPOST_FN void for_each_run(int64_t row, const Visit& visit) const {
    uint64_t carry = 0;
    int64_t begin = 0;
    for (int64_t w = 0; w < bits.n_words; ++w) {
      const uint64_t word = inverted ? ~bits.word(row, w) & bits.valid(w) : bits.word(row, w);
      for (uint64_t edges = word ^ (word << 1 | carry); edges != 0; edges &= edges - 1) {
        const int b = lowest_bit(edges);
        if (word >> b & 1u) {
          begin = 64 * w + b;
        } else {
          visit(begin, 64 * w + b);
        }
      }
      carry = word >> 63;
    }
    if (carry != 0) visit(begin, bits.width);
  }
  CELLPOST_FN bool same(int64_t, int64_t, int64_t, int64_t) const { return true; }
};

/// The pixels of the objects of a label image.
struct LabelRows {
  const int32_t* labels;
  int64_t width;

  template <class Visit>
  CELLPOST_FN void for_each_run(int64_t row, const Visit& visit) const {
    const int32_t* const line = labels + row * width;
    for (int64_t begin = 0, end; begin < width; begin = end) {
      for (end = begin + 1; end < width && line[end] == line[begin];) ++end;
      if (line[begin] != 0) visit(begin, end);
    }
  }
  /// Whether two pixels, each a row and a column, have the same label.
  CELLPOST_FN bool same(int64_t row, int64_t x, int64_t other_row, int64_t other_x) const {
    return labels[row * width + x] == labels[other_row * width + other_x];
  }
};

/// In raster order. Row r has the runs row_first[r] ... row_first[r + 1] - 1.
struct Runs {
  int64_t n;
  const int64_t* row_first;
  int32_t* row;
  int32_t* begin;  ///< first column
  int32_t* end;    ///< one past the last column

  CELLPOST_FN int64_t length(int64_t run) const {
    return static_cast<int64_t>(end[run]) - begin[run];
  }
};

template <class Rows>
struct CountRuns {
  Rows rows;
  int64_t* counts;  ///< by row

  CELLPOST_FN void operator()(int64_t row) const {
    int64_t n = 0;
    rows.for_each_run(row, [&n](int64_t, int64_t) { ++n; });
    counts[row] = n;
  }
};

template <class Rows>
struct FindRuns {
  Rows rows;
  Runs runs;

  CELLPOST_FN void operator()(int64_t row) const {
    int64_t run = runs.row_first[row];
    rows.for_each_run(row, [&](int64_t begin, int64_t end) {
      runs.row[run] = static_cast<int32_t>(row);
      runs.begin[run] = static_cast<int32_t>(begin);
      runs.end[run++] = static_cast<int32_t>(end);
    });
  }
};

/// Unites the runs of a row with those of the rows before it that they touch. Connectivity as
/// SciPy counts it: 1 is over edges (faces), the number of axes over corners, too.
template <class Rows>
struct JoinRuns {
  Rows rows;
  Runs runs;
  Shape shape;
  int connectivity;
  UnionFind sets;

  CELLPOST_FN void operator()(int64_t row) const {
    const int64_t z = row / shape.y, y = row % shape.y;
    for (int64_t dz = -1; dz <= 0; ++dz) {
      for (int64_t dy = -1; dy <= (dz < 0 ? 1 : -1); ++dy) {
        const int64_t far = (dz != 0) + (dy != 0);
        if (far > connectivity || !shape.contains(z + dz, y + dy, 0)) continue;
        join(row, row + dz * shape.y + dy, far < connectivity ? 1 : 0);
      }
    }
  }

 private:
  CELLPOST_FN void unite(int64_t i, int64_t k) const {
    if (rows.same(runs.row[i], runs.begin[i], runs.row[k], runs.begin[k])) sets.unite(i, k);
  }
  /// `slack` is 1 if touching over a corner counts.
  CELLPOST_FN void join(int64_t row, int64_t other_row, int32_t slack) const {
    int64_t i = runs.row_first[row], k = runs.row_first[other_row];
    const int64_t i_end = runs.row_first[row + 1], k_end = runs.row_first[other_row + 1];
    while (i < i_end && k < k_end) {
      if (runs.end[k] + slack <= runs.begin[i]) {
        ++k;
      } else if (runs.end[i] + slack <= runs.begin[k]) {
        ++i;
      } else {
        unite(i, k);
        if (runs.end[k] < runs.end[i]) {
          ++k;
        } else {
          // Runs of other labels may follow without a gap: this one touches the next at its corner.
          const bool corner = slack > 0 && runs.end[k] == runs.end[i] && k + 1 < k_end;
          if (corner && runs.begin[k + 1] == runs.end[k]) unite(i, k + 1);
          ++i;
        }
      }
    }
  }
};

struct FlattenRuns {
  UnionFind sets;
  CELLPOST_FN void operator()(int64_t run) const { sets.store(run, sets.find(run)); }
};

struct IsRootRun {
  UnionFind sets;
  CELLPOST_FN bool operator()(int64_t run) const { return sets.load(run) == run; }
};

/// size[root] = pixels.
struct AddRunLength {
  Runs runs;
  UnionFind sets;
  int64_t* size;
  CELLPOST_FN void operator()(int64_t run) const {
    atomic_add(&size[sets.load(run)], runs.length(run));
  }
};

struct IsSmallRoot {
  UnionFind sets;
  const int64_t* size;
  int64_t minimum;
  CELLPOST_FN bool operator()(int64_t run) const {
    return sets.load(run) == run && size[run] < minimum;
  }
};

/// Pixels begin ... end - 1 of a row become `value`. One item a row: runs share words.
CELLPOST_FN void set_bits(const BitImage& bits, int64_t row, int64_t begin, int64_t end,
                          bool value) {
  for (int64_t w = begin >> 6; w <= (end - 1) >> 6; ++w) {
    uint64_t part = ~uint64_t{0};
    if (w == begin >> 6) part &= ~uint64_t{0} << (begin & 63);
    if (w == (end - 1) >> 6) part &= ~uint64_t{0} >> (63 - ((end - 1) & 63));
    uint64_t& word = bits.words[row * bits.n_words + w];
    word = value ? word | part : word & ~part;
  }
}

/// Clears the components of fewer than `minimum` pixels.
struct ClearSmall {
  Runs runs;
  UnionFind sets;
  const int64_t* size;
  int64_t minimum;
  BitImage bits;
  CELLPOST_FN void operator()(int64_t row) const {
    for (int64_t i = runs.row_first[row]; i < runs.row_first[row + 1]; ++i) {
      if (size[sets.load(i)] < minimum) set_bits(bits, row, runs.begin[i], runs.end[i], false);
    }
  }
};

/// open[root] = 1 for the components (of background) that touch the border of the image.
struct MarkOpen {
  Runs runs;
  Shape shape;
  UnionFind sets;
  int32_t* open;
  CELLPOST_FN void operator()(int64_t run) const {
    const int64_t z = runs.row[run] / shape.y, y = runs.row[run] % shape.y;
    const bool at_border = y == 0 || y == shape.y - 1 || runs.begin[run] == 0 ||
                           runs.end[run] == shape.x ||
                           (shape.ndim == 3 && (z == 0 || z == shape.z - 1));
    if (at_border) atomic_max(&open[sets.load(run)], 1);
  }
};

/// Sets the pixels of the components (of background) that are not open.
struct SetClosed {
  Runs runs;
  UnionFind sets;
  const int32_t* open;
  BitImage bits;
  CELLPOST_FN void operator()(int64_t row) const {
    for (int64_t i = runs.row_first[row]; i < runs.row_first[row + 1]; ++i) {
      if (!open[sets.load(i)]) set_bits(bits, row, runs.begin[i], runs.end[i], true);
    }
  }
};

/// id_of_root[roots[rank]] = rank + 1: components in raster order of their first pixels.
struct NumberRoots {
  const int64_t* roots;
  int32_t* id_of_root;
  CELLPOST_FN void operator()(int64_t rank) const {
    id_of_root[roots[rank]] = static_cast<int32_t>(rank + 1);
  }
};

/// Writes whole rows: the ids of the components, 0 between them.
struct WriteIds {
  Runs runs;
  UnionFind sets;
  const int32_t* id_of_root;
  int64_t width;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t row) const {
    int32_t* line = labels + row * width;
    int64_t x = 0;
    for (int64_t i = runs.row_first[row]; i < runs.row_first[row + 1]; ++i) {
      const int32_t id = id_of_root[sets.load(i)];
      for (; x < runs.begin[i]; ++x) line[x] = 0;
      for (; x < runs.end[i]; ++x) line[x] = id;
    }
    for (; x < width; ++x) line[x] = 0;
  }
};

}  // namespace cellpost
