// The labels family through its C++ contract, against plain floods, at odd shapes and all thread
// counts.
#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include "api/labels.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using cellpost::testing::everywhere;
using cellpost::testing::Owned;
using cellpost::testing::Random;
using cellpost::testing::view;

namespace {

using Labels = Owned<int32_t>;

/// Blots of random ids with gaps; small ids lie on top of large ones.
Labels blots(std::vector<int64_t> shape, int64_t n, uint64_t seed) {
  Random random(seed);
  Labels labels(shape);
  const int64_t nx = shape.back(), ny = shape[shape.size() - 2];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t y0 = random.integer(ny), x0 = random.integer(nx), r = 1 + random.integer(6);
    const int32_t id = static_cast<int32_t>(1 + random.integer(3 * n));
    const bool ring = random.integer(2) == 0;
    for (int64_t p = 0; p < static_cast<int64_t>(labels.size()); ++p) {
      const int64_t dy = p / nx % ny - y0, dx = p % nx - x0, far = dy * dy + dx * dx;
      if (far <= r * r && !(ring && far < (r - 1) * (r - 1))) labels[p] = id;
    }
  }
  return labels;
}

std::map<int32_t, int64_t> sizes(const Labels& labels) {
  std::map<int32_t, int64_t> n;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels.data[i] != 0) ++n[labels.data[i]];
  }
  return n;
}

/// Pixels that a flood of `open(pixel)` from outside the image's border does not reach, of those
/// with open(); 4-connected.
template <class Open>
std::vector<bool> enclosed(const Labels& labels, const Open& open) {
  const int64_t ny = labels.shape[0], nx = labels.shape[1];
  std::vector<bool> reached(labels.size());
  std::vector<int64_t> stack;
  const auto visit = [&](int64_t y, int64_t x) {
    if (y < 0 || y >= ny || x < 0 || x >= nx) return;
    const int64_t p = y * nx + x;
    if (open(p) && !reached[static_cast<size_t>(p)]) {
      reached[static_cast<size_t>(p)] = true;
      stack.push_back(p);
    }
  };
  for (int64_t y = 0; y < ny; ++y) visit(y, 0), visit(y, nx - 1);
  for (int64_t x = 0; x < nx; ++x) visit(0, x), visit(ny - 1, x);
  while (!stack.empty()) {
    const int64_t p = stack.back();
    stack.pop_back();
    visit(p / nx - 1, p % nx), visit(p / nx + 1, p % nx);
    visit(p / nx, p % nx - 1), visit(p / nx, p % nx + 1);
  }
  std::vector<bool> holes(labels.size());
  for (size_t p = 0; p < holes.size(); ++p) {
    holes[p] = open(static_cast<int64_t>(p)) && !reached[p];
  }
  return holes;
}

/// As Cellpose: ascending ids, each on the state its predecessors left.
Labels overwrite_holes(const Labels& given) {
  Labels labels = given.copy();
  for (const auto& [id, n] : sizes(given)) {
    const int32_t own = id;
    const auto holes = enclosed(labels, [&](int64_t p) { return labels[p] != own; });
    if (sizes(labels).count(id) == 0) continue;
    for (size_t p = 0; p < holes.size(); ++p) {
      if (holes[p]) labels.data[p] = id;
    }
  }
  return labels;
}

/// Background in holes goes to the enclosing object with the smallest (bounding box, id).
Labels keep_nested(const Labels& given) {
  const int64_t nx = given.shape[1];
  Labels labels = given.copy();
  std::vector<std::pair<int64_t, int32_t>> best(given.size(), {INT64_MAX, 0});
  for (const auto& [id, n] : sizes(given)) {
    int64_t low[2] = {INT64_MAX, INT64_MAX}, high[2] = {-1, -1};
    for (int64_t p = 0; p < static_cast<int64_t>(given.size()); ++p) {
      if (given[p] != id) continue;
      const int64_t at[2] = {p / nx, p % nx};
      for (int k = 0; k < 2; ++k) {
        low[k] = std::min(low[k], at[k]);
        high[k] = std::max(high[k], at[k]);
      }
    }
    const int64_t box = (high[0] - low[0] + 1) * (high[1] - low[1] + 1);
    const int32_t own = id;
    const auto holes = enclosed(given, [&](int64_t p) { return given[p] != own; });
    for (size_t p = 0; p < holes.size(); ++p) {
      if (holes[p] && given.data[p] == 0) best[p] = std::min(best[p], {box, id});
    }
  }
  for (size_t p = 0; p < best.size(); ++p) {
    if (best[p].second != 0) labels.data[p] = best[p].second;
  }
  return labels;
}

const std::vector<std::vector<int64_t>> kShapes = {{1, 1}, {1, 9},   {9, 1},
                                                   {5, 7}, {33, 65}, {70, 131}};

}  // namespace

TEST(labels, fill_holes_agrees_with_floods) {
  for (const auto& shape : kShapes) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const Labels given = blots(shape, 12, seed);
      const Labels kept = keep_nested(given), overwritten = overwrite_holes(given);
      everywhere([&] {
        Labels labels = given.copy();
        const FilterReport report = api::fill_holes(view("labels", labels), Nested::keep);
        CHECK(labels == kept);
        CHECK(report.n_removed == 0);
        labels = given.copy();
        api::fill_holes(view("labels", labels), Nested::overwrite);
        CHECK(labels == overwritten);
      });
    }
  }
}

TEST(labels, relabel_numbers_by_first_appearance) {
  for (const auto& shape : kShapes) {
    const Labels given = blots(shape, 20, 11);
    Labels expected(shape);
    std::map<int32_t, int32_t> number;
    for (size_t p = 0; p < given.size(); ++p) {
      const int32_t id = given.data[p];
      if (id != 0) {
        expected.data[p] =
            number.emplace(id, static_cast<int32_t>(number.size() + 1)).first->second;
      }
    }
    everywhere([&] {
      Labels labels = given.copy();
      CHECK(api::relabel(view("labels", labels)) == static_cast<int64_t>(number.size()));
      CHECK(labels == expected);
    });
  }
}

TEST(labels, size_filters_count_what_they_drop) {
  for (const auto& shape : kShapes) {
    const Labels given = blots(shape, 20, 5);
    const auto before = sizes(given);
    for (const int64_t minimum : {int64_t{-3}, int64_t{1}, int64_t{12}, INT64_MAX}) {
      everywhere([&] {
        Labels labels = given.copy();
        const FilterReport report = api::remove_small(view("labels", labels), minimum);
        int64_t n_removed = 0, n_pixels = 0;
        for (const auto& [id, n] : before) {
          if (n < minimum) ++n_removed, n_pixels += n;
        }
        CHECK(report.n_before == static_cast<int64_t>(before.size()));
        CHECK(report.n_removed == n_removed && report.n_pixels == n_pixels);
        for (size_t p = 0; p < given.size(); ++p) {
          const int32_t id = given.data[p];
          CHECK(labels.data[p] == (id != 0 && before.at(id) >= minimum ? id : 0));
        }
      });
    }
  }
}

TEST(labels, fragments_are_the_eight_connected_pieces) {
  const Labels given = blots({40, 75}, 60, 9);
  // Pieces by repeated lowering of indices, until nothing changes.
  const int64_t ny = 40, nx = 75;
  std::vector<int64_t> piece(given.size());
  for (size_t p = 0; p < piece.size(); ++p) piece[p] = static_cast<int64_t>(p);
  for (bool changed = true; changed;) {
    changed = false;
    for (int64_t p = 0; p < ny * nx; ++p) {
      for (int64_t d = 0; d < 9; ++d) {
        const int64_t y = p / nx + d / 3 - 1, x = p % nx + d % 3 - 1;
        if (y < 0 || y >= ny || x < 0 || x >= nx || given[y * nx + x] != given[p]) continue;
        const int64_t low = piece[static_cast<size_t>(y * nx + x)];
        if (low < piece[static_cast<size_t>(p)])
          piece[static_cast<size_t>(p)] = low, changed = true;
      }
    }
  }
  std::map<int64_t, int64_t> size_of_piece;
  std::map<int32_t, std::set<int64_t>> pieces_of;
  for (size_t p = 0; p < piece.size(); ++p) {
    if (given.data[p] == 0) continue;
    ++size_of_piece[piece[p]];
    pieces_of[given.data[p]].insert(piece[p]);
  }
  everywhere([&] {
    Labels largest = given.copy(), split = given.copy();
    const FilterReport dropped =
        api::resolve_fragments(view("labels", largest), Fragments::largest);
    const FilterReport added = api::resolve_fragments(view("labels", split), Fragments::split);
    const int64_t n_extra = static_cast<int64_t>(size_of_piece.size() - pieces_of.size());
    CHECK(n_extra > 3 && dropped.n_removed == n_extra && added.n_removed == n_extra);
    CHECK(sizes(split).size() == size_of_piece.size());
    for (const auto& [id, pieces] : pieces_of) {
      int64_t best = *pieces.begin();
      for (const int64_t p : pieces) {
        if (size_of_piece[p] > size_of_piece[best]) best = p;
      }
      for (const int64_t p : pieces) {
        CHECK(largest[p] == (p == best ? id : 0));
        CHECK((split[p] == id) == (p == *pieces.begin()));
      }
    }
  });
}

TEST(labels, volumes_are_filled_through_all_three_axes) {
  Labels box({5, 6, 7});
  for (int64_t p = 0; p < 5 * 6 * 7; ++p) {
    const int64_t z = p / 42, y = p / 7 % 6, x = p % 7;
    const bool inside = z > 0 && z < 4 && y > 0 && y < 5 && x > 0 && x < 6;
    box[p] = inside ? 0 : 3;
  }
  Labels open = box.copy();
  open[0 * 42 + 2 * 7 + 2] = 0;  // a tunnel to the border
  CHECK(api::fill_holes(view("labels", box), Nested::keep).n_pixels == 3 * 4 * 5);
  CHECK(sizes(box)[3] == 5 * 6 * 7);
  CHECK(api::fill_holes(view("labels", open), Nested::keep).n_pixels == 0);
}

TEST(labels, empty_images_and_bad_ids) {
  Labels none({0, 4});
  CHECK(api::relabel(view("labels", none)) == 0);
  CHECK(api::fill_holes(view("labels", none), Nested::keep).n_before == 0);
  CHECK(api::count_labels(view("labels", none)) == 0);
  Labels negative({2, 2});
  negative[3] = -1;
  CHECK_THROWS(api::relabel(view("labels", negative)), std::invalid_argument);
  negative[3] = INT32_MAX;  // a table of all ids would dwarf the image
  CHECK_THROWS(api::relabel(view("labels", negative)), std::invalid_argument);
  Labels flat({4});
  CHECK_THROWS(api::remove_small(view("labels", flat), 3), std::invalid_argument);
}
