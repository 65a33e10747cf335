// The overlaps family's C++ contract against plain loops, at all CPU levels and thread counts.
#include <algorithm>
#include <map>
#include <stdexcept>

#include "api/overlaps.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using namespace cellpost::testing;

namespace {

using Sizes = std::vector<int64_t>;
using Counted = std::map<int64_t, int64_t>;

/// Runs of random ids, 0 to most, as label images have them.
Owned<int32_t> random_labels(const Sizes& shape, int32_t most, Random& random) {
  Owned<int32_t> labels(shape);
  int32_t id = 0;
  for (int32_t& v : labels) {
    if (random.integer(4) == 0) id = static_cast<int32_t>(random.integer(most + 1));
    v = id;
  }
  return labels;
}

bool same(const PairCounts& found, const Counted& expected) {
  if (found.keys.size() != expected.size() || found.counts.size() != expected.size()) return false;
  size_t i = 0;
  for (const auto& [key, count] : expected) {
    if (found.keys[i] != key || found.counts[i++] != count) return false;
  }
  return true;
}

/// Tiles every stride, the last one moved back to the image's end; one smaller is padded. The
/// begins and ends are those of cores.
AxisTables cores(int64_t size, int64_t side, int64_t stride) {
  AxisTables axis;
  int64_t at = size < side ? -(side - size) / 2 : 0;
  for (bool is_last = false; !is_last; at += stride) {
    is_last = at + side >= size;
    if (is_last && size >= side) at = size - side;
    axis.start.push_back(at);
    if (!axis.end.empty()) axis.end.back() = (axis.start[axis.start.size() - 2] + side + at) / 2;
    axis.begin.push_back(axis.end.empty() ? 0 : axis.end.back());
    axis.end.push_back(size);
  }
  return axis;
}

/// Random tiles of an image or a volume.
struct Given {
  Sizes shape, tile;
  std::vector<AxisTables> axes;
  std::vector<Owned<int32_t>> tiles;
  std::vector<int64_t> first{0};
  std::vector<TilePair> pairs;

  Given(Sizes image, Sizes side, const Sizes& stride, uint64_t seed)
      : shape(std::move(image)), tile(std::move(side)) {
    Random random(seed);
    size_t n = 1;
    for (size_t k = 0; k < shape.size(); ++k) {
      axes.push_back(cores(shape[k], tile[k], stride[k]));
      n *= axes[k].start.size();
    }
    for (size_t i = 0; i < n; ++i) {
      const auto most = static_cast<int32_t>(random.integer(9));
      tiles.push_back(random_labels(tile, most, random));
      first.push_back(first.back() + most + 1);
    }
    const int64_t depth = tile[0], height = mid(), width = tile.back();
    for (int k = 0; k < 12; ++k) {  // regions of any two tiles, of any sizes
      TilePair pair{};
      pair.tile_a = random.integer(static_cast<int64_t>(n));
      pair.tile_b = random.integer(static_cast<int64_t>(n));
      const int64_t sides[3] = {depth, height, width};
      for (int axis = 0; axis < 3; ++axis) {
        pair.size[axis] = 1 + random.integer(sides[axis]);
        pair.begin_a[axis] = random.integer(sides[axis] - pair.size[axis] + 1);
        pair.begin_b[axis] = random.integer(sides[axis] - pair.size[axis] + 1);
      }
      pairs.push_back(pair);
    }
  }

  int64_t mid() const { return tile.size() == 2 ? 1 : tile[1]; }

  std::vector<api::Array> views() const {
    std::vector<api::Array> all;
    for (const Owned<int32_t>& one : tiles) all.push_back(view("tiles", one));
    return all;
  }

  Counted shared() const {
    Counted counts;
    for (const TilePair& p : pairs) {
      for (int64_t i = 0; i < p.size[0] * p.size[1] * p.size[2]; ++i) {
        const int64_t z = i / (p.size[1] * p.size[2]), y = i / p.size[2] % p.size[1],
                      x = i % p.size[2];
        const auto at = [&](const int64_t (&begin)[3]) {
          return ((begin[0] + z) * mid() + begin[1] + y) * tile.back() + begin[2] + x;
        };
        const int32_t a = tiles[static_cast<size_t>(p.tile_a)][at(p.begin_a)];
        const int32_t b = tiles[static_cast<size_t>(p.tile_b)][at(p.begin_b)];
        if (a == 0 && b == 0) continue;
        ++counts[((first[static_cast<size_t>(p.tile_a)] + a) << 32) |
                 (first[static_cast<size_t>(p.tile_b)] + b)];
      }
    }
    return counts;
  }

  /// visit(pixel, tile, place in the tile) for each pixel of the image, of the tile whose core it
  /// lies in.
  template <class Visit>
  void for_each_owned(const Visit& visit) const {
    const AxisTables one{{0}, {0}, {1}, {}};
    const bool flat = shape.size() == 2;
    const AxisTables &a0 = axes[0], &a1 = flat ? one : axes[1], &a2 = axes.back();
    const int64_t height = flat ? 1 : shape[1], width = shape.back();
    const auto owner = [](const AxisTables& axis, int64_t p) {
      size_t k = 0;
      while (p >= axis.end[k]) ++k;
      return k;
    };
    for (int64_t i = 0; i < product(shape); ++i) {
      const int64_t z = i / (height * width), y = i / width % height, x = i % width;
      const size_t k0 = owner(a0, z), k1 = owner(a1, y), k2 = owner(a2, x);
      visit(i, (k0 * a1.start.size() + k1) * a2.start.size() + k2,
            ((z - a0.start[k0]) * mid() + y - a1.start[k1]) * tile.back() + x - a2.start[k2]);
    }
  }

  Owned<int32_t> composed(const std::vector<int32_t>& map) const {
    Owned<int32_t> out(shape);
    for_each_owned([&](int64_t i, size_t k, int64_t at) {
      out[i] = map[static_cast<size_t>(first[k] + tiles[k][at])];
    });
    return out;
  }

  /// A region of each pair, with a mark of its own.
  std::vector<TileRegion> regions() const {
    std::vector<TileRegion> all;
    for (const TilePair& p : pairs) {
      TileRegion region{p.tile_a, {}, {}, int64_t{1} << all.size()};
      for (int axis = 0; axis < 3; ++axis) {
        region.begin[axis] = p.begin_a[axis];
        region.size[axis] = p.size[axis];
      }
      all.push_back(region);
    }
    return all;
  }

  TileSurvey survey() const {
    const auto n = static_cast<size_t>(first.back());
    TileSurvey expected{std::vector<int64_t>(n, INT64_MAX), std::vector<int32_t>(n, 0)};
    for_each_owned([&](int64_t i, size_t k, int64_t at) {
      int64_t& found = expected.first_pixel[static_cast<size_t>(first[k] + tiles[k][at])];
      found = std::min(found, i);
    });
    for (const TileRegion& r : regions()) {
      const auto k = static_cast<size_t>(r.tile);
      for (int64_t i = 0; i < r.size[0] * r.size[1] * r.size[2]; ++i) {
        const int64_t z = r.begin[0] + i / (r.size[1] * r.size[2]),
                      y = r.begin[1] + i / r.size[2] % r.size[1], x = r.begin[2] + i % r.size[2];
        const int32_t id = tiles[k][(z * mid() + y) * tile.back() + x];
        expected.marks[static_cast<size_t>(first[k] + id)] |= static_cast<int32_t>(r.mark);
      }
    }
    return expected;
  }
};

std::vector<Given> every_given() {
  std::vector<Given> all;
  all.emplace_back(Sizes{1, 1}, Sizes{1, 1}, Sizes{1, 1}, 1);
  all.emplace_back(Sizes{37, 53}, Sizes{16, 11}, Sizes{7, 11}, 2);
  all.emplace_back(Sizes{5, 300}, Sizes{9, 70}, Sizes{3, 13}, 3);  // padded
  all.emplace_back(Sizes{9, 14, 33}, Sizes{4, 14, 17}, Sizes{2, 1, 5}, 4);
  all.emplace_back(Sizes{130, 2}, Sizes{129, 2}, Sizes{1, 1}, 5);
  return all;
}

TEST(overlaps, counts_are_those_of_the_pixels) {
  Random random(1);
  for (const Sizes& shape : {Sizes{1, 1}, Sizes{1, 200}, Sizes{77, 3}, Sizes{40, 65},
                             Sizes{3, 5, 70}, Sizes{0, 4}, Sizes{4, 0}}) {
    const auto a = random_labels(shape, 5, random), b = random_labels(shape, 70'000, random);
    Counted expected;
    for (int64_t i = 0; i < product(shape); ++i) {
      if (a[i] || b[i]) ++expected[(int64_t{a[i]} << 32) | b[i]];
    }
    everywhere([&] { CHECK(same(api::overlap_counts(view("a", a), view("b", b)), expected)); });
  }
}

TEST(overlaps, counts_reject_other_shapes_and_dtypes) {
  const Owned<int32_t> a({3, 4}), b({4, 3});
  const Owned<int64_t> wide({3, 4});
  CHECK_THROWS(api::overlap_counts(view("a", a), view("b", b)), std::invalid_argument);
  CHECK_THROWS(api::overlap_counts(view("a", a), view("b", wide)), std::invalid_argument);
}

TEST(overlaps, pairs_of_tiles_are_counted_in_their_regions) {
  for (const Given& given : every_given()) {
    const Counted expected = given.shared();
    everywhere([&] {
      CHECK(same(api::tile_overlaps({given.views(), given.first}, given.pairs), expected));
    });
  }
  const Given given(Sizes{9, 9}, Sizes{5, 5}, Sizes{2, 2}, 6);
  CHECK(api::tile_overlaps({given.views(), given.first}, {}).keys.empty());
}

TEST(overlaps, regions_beyond_a_tile_are_rejected) {
  const Given given(Sizes{9, 9}, Sizes{5, 5}, Sizes{2, 2}, 7);
  const TilePair good{0, 1, {0, 0, 1}, {0, 0, 0}, {5, 1, 4}};
  CHECK(!api::tile_overlaps({given.views(), given.first}, {good}).keys.empty());
  for (int k = 0; k < 5; ++k) {
    TilePair bad = good;
    if (k == 0) bad.tile_b = static_cast<int64_t>(given.tiles.size());
    if (k == 1) bad.tile_a = -1;
    if (k == 2) bad.begin_a[2] = 2;
    if (k == 3) bad.begin_b[0] = -1;
    if (k == 4) bad.size[1] = 0;
    CHECK_THROWS(api::tile_overlaps({given.views(), given.first}, {bad}), std::invalid_argument);
  }
  auto short_first = given.first;
  short_first.pop_back();
  CHECK_THROWS(api::tile_overlaps({given.views(), short_first}, {good}), std::invalid_argument);
}

TEST(overlaps, each_pixel_is_its_core_tile_s) {
  for (const Given& given : every_given()) {
    std::vector<int32_t> map(static_cast<size_t>(given.first.back()));
    Random random(8);
    for (int32_t& v : map) v = static_cast<int32_t>(random.integer(1000));
    const auto expected = given.composed(map);
    everywhere([&] {
      Owned<int32_t> out(given.shape);
      api::compose_tiles({given.views(), given.first}, given.axes, map, view("out", out));
      CHECK(out == expected);
    });
  }
}

TEST(overlaps, a_survey_finds_first_pixels_and_marks) {
  for (const Given& given : every_given()) {
    const TileSurvey expected = given.survey();
    everywhere([&] {
      const TileSurvey found = api::survey_tiles({given.views(), given.first},
                                                 {given.axes, given.shape}, given.regions());
      CHECK(found.first_pixel == expected.first_pixel);
      CHECK(found.marks == expected.marks);
    });
  }
}

TEST(overlaps, bits_of_ids_are_those_of_all_of_them) {
  for (Given& given : every_given()) {
    given.tiles.back()[0] = -7;
    std::vector<int32_t> expected;
    for (const auto& tile : given.tiles) {
      expected.push_back(0);
      for (const int32_t id : tile) expected.back() |= id;
    }
    everywhere([&] { CHECK(api::bits_of_ids(given.views()) == expected); });
  }
  CHECK(api::bits_of_ids({}).empty());
}

TEST(overlaps, parts_beyond_a_tile_are_not_surveyed) {
  const Given given(Sizes{9, 9}, Sizes{5, 5}, Sizes{2, 2}, 11);
  for (int k = 0; k < 4; ++k) {
    TileRegion bad{0, {0, 0, 1}, {5, 1, 4}, 1};
    if (k == 0) bad.tile = static_cast<int64_t>(given.tiles.size());
    if (k == 1) bad.begin[2] = 2;
    if (k == 2) bad.begin[0] = -1;
    if (k == 3) bad.size[2] = 0;
    CHECK_THROWS(api::survey_tiles({given.views(), given.first}, {given.axes, given.shape}, {bad}),
                 std::invalid_argument);
  }
  auto gaps = given.first;
  gaps[1] = gaps[2];
  CHECK_THROWS(api::survey_tiles({given.views(), gaps}, {given.axes, given.shape}, {}),
               std::invalid_argument);
}

TEST(overlaps, ids_beyond_a_tile_s_are_background) {
  Given given(Sizes{9, 9}, Sizes{5, 5}, Sizes{2, 2}, 9);
  std::vector<int32_t> map(static_cast<size_t>(given.first.back()), 1);
  for (size_t i = 0; i < given.tiles.size(); ++i) map[static_cast<size_t>(given.first[i])] = 0;
  for (auto& tile : given.tiles) std::fill(tile.begin(), tile.end(), INT32_MAX);
  given.tiles[0][0] = -5;
  Owned<int32_t> out(given.shape);
  api::compose_tiles({given.views(), given.first}, given.axes, map, view("out", out));
  CHECK(std::all_of(out.begin(), out.end(), [](int32_t v) { return v == 0; }));
}

TEST(overlaps, cores_that_do_not_cover_the_image_are_rejected) {
  const Given given(Sizes{9, 9}, Sizes{5, 5}, Sizes{2, 2}, 10);
  std::vector<int32_t> map(static_cast<size_t>(given.first.back()), 1);
  Owned<int32_t> out(given.shape);
  for (int k = 0; k < 5; ++k) {
    auto axes = given.axes;
    auto numbers = map;
    if (k == 0) axes[0].end.back() = 8;
    if (k == 1) axes[1].begin[1] += 1;
    if (k == 2) axes[0].start[0] = -5;
    if (k == 3) axes.pop_back();
    if (k == 4) numbers.pop_back();
    CHECK_THROWS(api::compose_tiles({given.views(), given.first}, axes, numbers, view("out", out)),
                 std::invalid_argument);
  }
}

}  // namespace
