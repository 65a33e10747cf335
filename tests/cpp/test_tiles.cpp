// The tiles family's C++ contract against plain loops, at all CPU levels and thread counts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "api/tiles.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using namespace cellpost::testing;

namespace {

using Sizes = std::vector<int64_t>;

/// Tiles every stride, the last one moved back to the image's end; one smaller is padded.
AxisTables sliding(int64_t size, int64_t side, int64_t stride, Random& random) {
  AxisTables axis;
  int64_t at = size < side ? -(side - size) / 2 : 0;
  for (bool is_last = false; !is_last; at += stride) {
    is_last = at + side >= size;
    if (is_last && size >= side) at = size - side;
    axis.start.push_back(at);
    axis.begin.push_back(std::max<int64_t>(at, 0));
    axis.end.push_back(std::min(at + side, size));
  }
  for (int64_t k = 0; k < side; ++k) axis.weight.push_back(random.real(0.01f, 1));
  return axis;
}

/// Random tiles of a map of any shape; T is uint16_t for both 16-bit dtypes.
template <class T>
struct Given {
  Sizes shape;  ///< of the map, with channels
  std::string dtype;
  api::TileTables tables;
  std::vector<Owned<T>> tiles;
  size_t n_each = 1;  ///< of a place along the first axis
  Owned<float> window;

  Given(Sizes map, const Sizes& tile, const Sizes& stride, std::string of, uint64_t seed)
      : shape(std::move(map)), dtype(std::move(of)), window(tile) {
    Random random(seed);
    tables.tile = tile;
    for (size_t k = 0; k < tile.size(); ++k) {
      tables.axes.push_back(sliding(shape[k + 1], tile[k], stride[k], random));
      if (k > 0) n_each *= tables.axes[k].start.size();
    }
    for (float& w : window) w = random.real(1e-6f, 3);
    tables.floor = 0.02;
    Sizes one{shape[0]};
    one.insert(one.end(), tile.begin(), tile.end());
    for (size_t k = 0; k < n_each * tables.axes[0].start.size(); ++k) {
      for (T& v : tiles.emplace_back(one)) v = stored(random.real(-9, 9));
    }
  }

  T stored(float v) const {
    if constexpr (!std::is_same_v<T, uint16_t>) {
      return static_cast<T>(v) / 3;
    } else {
      return dtype == "float16" ? float_to_half(v) : float_to_bfloat(v);
    }
  }
  double value(T v) const {
    if constexpr (!std::is_same_v<T, uint16_t>) {
      return static_cast<double>(v);
    } else {
      return static_cast<double>(
          dtype == "float16" ? half_to_float(v) : bits_to_float(static_cast<uint32_t>(v) << 16));
    }
  }
  /// Of the places [first, end) along the first axis.
  std::vector<api::Array> views(size_t first, size_t end) const {
    std::vector<api::Array> all;
    for (size_t k = first * n_each; k < end * n_each; ++k) {
      all.push_back(view("tiles", tiles[k]));
      all.back().dtype = dtype;
    }
    return all;
  }

  /// The mean at one pixel; an image has a middle axis of one pixel.
  double mean(int64_t channel, int64_t row, int64_t mid, int64_t x) const {
    const AxisTables one{{0}, {0}, {1}, {1.0f}};
    const bool flat = tables.axes.size() == 2;
    const AxisTables &a0 = tables.axes[0], &a1 = flat ? one : tables.axes[1];
    const AxisTables& a2 = tables.axes.back();
    const int64_t h = flat ? 1 : tables.tile[1], w = tables.tile.back(), d = tables.tile[0];
    const auto n1 = static_cast<int64_t>(a1.start.size()),
               n2 = static_cast<int64_t>(a2.start.size());
    const auto covers = [](const AxisTables& a, int64_t k, int64_t p) {
      return a.begin[k] <= p && p < a.end[k];
    };
    double sum = 0, weights = 0;
    for (size_t k0 = 0; k0 < a0.start.size(); ++k0) {
      for (int64_t k = 0; k < n1 * n2; ++k) {
        const int64_t k1 = k / n2, k2 = k % n2;
        if (!covers(a0, k0, row) || !covers(a1, k1, mid) || !covers(a2, k2, x)) continue;
        const int64_t z = row - a0.start[k0], y = mid - a1.start[k1], i = x - a2.start[k2];
        const int64_t at = (z * h + y) * w + i;
        const float product = a0.weight[z] * a1.weight[y] * a2.weight[i];
        const float floor = static_cast<float>(tables.floor);
        const float weight = tables.window ? window[at] : std::max(product, floor);
        const T v = tiles[k0 * n_each + static_cast<size_t>(k)][channel * d * h * w + at];
        weights += double{weight};
        sum += double{weight} * value(v);
      }
    }
    return sum * (1 / weights);
  }
};

template <class Out>
bool same(Out a, Out b) {
  return std::memcmp(&a, &b, sizeof(Out)) == 0;
}

/// Blends all rows, or `n_rows` from `first_row` on of the layers that cover them, into the middle
/// of a larger map whose rest must stay; `out_dtype` as of the array.
template <class Out, class T>
void check_stitch(const Given<T>& given, const char* out_dtype, int64_t first_row, int64_t n_rows) {
  const AxisTables& down = given.tables.axes[0];
  size_t first = 0, end = down.start.size();
  while (down.end[first] <= first_row) ++first;
  while (down.begin[end - 1] >= first_row + n_rows) --end;
  const bool is_part = n_rows < given.shape[1];
  Sizes shape = given.shape, whole;
  shape[1] = n_rows;
  whole = shape;
  if (is_part) ++whole[0], whole[1] += 2, whole.back() += 3;
  const int64_t mids = shape.size() == 3 ? 1 : shape[2], width = shape.back();
  const int64_t n = product(shape);
  std::vector<Out> expected;
  int64_t nan = -1;
  for (int64_t k = 0; k < n; ++k) {
    const int64_t x = k % width, mid = k / width % mids, row = k / width / mids % n_rows;
    const double mean = given.mean(k / width / mids / n_rows, first_row + row, mid, x);
    const auto narrow = static_cast<float>(mean);
    if (nan < 0 && std::isnan(mean)) nan = k;
    if constexpr (std::is_same_v<Out, double>) {
      expected.push_back(mean);
    } else if constexpr (std::is_same_v<Out, float>) {
      expected.push_back(narrow);
    } else {
      const bool is_half = std::string(out_dtype) == "float16";
      expected.push_back(is_half ? float_to_half(narrow) : float_to_bfloat(narrow));
    }
  }
  everywhere([&] {
    Owned<Out> map(whole);
    api::Array out = view("out", map);
    out.dtype = out_dtype;
    out.shape = shape;
    if (is_part) out.data = map.begin() + out.stride[1] + 2;  // a row above and one below
    const auto at = static_cast<int64_t>(first);
    CHECK(api::stitch(given.views(first, end), out, given.tables, at, first_row) == nan);
    int64_t n_written = 0;
    bool is_same = true;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t x = k % width, mid = k / width % mids, row = k / width / mids % n_rows;
      Out* const p = static_cast<Out*>(out.data) + k / width / mids / n_rows * out.stride[0] +
                     row * out.stride[1] + (mids > 1 ? mid * out.stride[2] : 0) + x;
      is_same = is_same && (same(*p, expected[k]) || (nan >= 0 && expected[k] != expected[k]));
      n_written += *p != Out{};
      *p = Out{};
    }
    CHECK(is_same && n_written > n / 2);
    CHECK(map == Owned<Out>(whole));
  });
}

template <class Out, class T>
void check_rows(const Given<T>& given, const char* out_dtype) {
  const int64_t rows = given.shape[1];
  check_stitch<Out>(given, out_dtype, 0, rows);
  if (rows > 2) check_stitch<Out>(given, out_dtype, rows / 2, rows / 3 + 1);
}

/// All dtypes of tiles and maps in turn.
void check_dtypes(const Sizes& shape, const Sizes& tile, const Sizes& stride, int64_t turn) {
  const auto seed = static_cast<uint64_t>(turn);
  const char* const dtypes[] = {"float16", "bfloat16", "float32"};
  const auto check_all = [&](auto given) {
    if (turn % 5 == 4) given.tables.window = view("window", given.window);
    switch (turn % 3) {
      case 0:
        return check_rows<uint16_t>(given, "float16");
      case 1:
        return check_rows<uint16_t>(given, "bfloat16");
      default:
        check_rows<float>(given, "float32");
    }
  };
  check_rows<float>(Given<float>(shape, tile, stride, "float32", seed), "float32");
  check_all(Given<float>(shape, tile, stride, "float32", seed));
  check_all(Given<uint16_t>(shape, tile, stride, dtypes[turn / 3 % 2], seed));
  check_rows<double>(Given<double>(shape, tile, stride, "float64", seed), "float64");
}

}  // namespace

TEST(tiles, means_are_those_of_a_plain_loop_at_every_width) {
  for (int64_t width = 1; width <= 70; ++width) {
    const int64_t side = 1 + width * 7 % 37, stride = 1 + width * 5 % side;
    check_dtypes({1 + width % 6, 5, width}, {3, side}, {1 + width % 3, stride}, width);
    check_dtypes({1, 2, width}, {4, width}, {4, width}, width + 1);  // no tile meets another
  }
}

TEST(tiles, volumes_and_maps_in_many_pieces) {
  for (int64_t width : {1, 9, 33, 50}) {
    const int64_t side = 1 + width / 3;
    check_dtypes({3, 5, 7, width}, {2, 3, side}, {1, 2, 1 + side / 2}, width);
    check_dtypes({9, 4, 1, width}, {6, 2, side}, {3, 1, side}, width + 1);
  }
  // more values than one thread takes at a time
  check_dtypes({5, 90, 300}, {32, 80}, {12, 33}, 2);
}

TEST(tiles, the_first_nan_is_told) {
  Random random(3);
  for (int64_t width = 1; width <= 40; width += 3) {
    const int64_t side = 1 + width * 7 % 19;
    Given<float> one({5, 6, width}, {3, side}, {2, 1 + side / 2}, "float32", 4);
    Given<uint16_t> two({2, 3, 4, width}, {3, 2, side}, {2, 1, side}, "float16", 5);
    Given<double> three({1, 4, width}, {3, side}, {2, side}, "float64", 6);
    for (int k = 0; k < 3; ++k) {
      Owned<float>& tile = one.tiles[random.integer(one.tiles.size())];
      tile[random.integer(tile.size())] = NAN;
      two.tiles[0][random.integer(two.tiles[0].size())] = 0x7e00;
      three.tiles.back()[random.integer(three.tiles.back().size())] = NAN;
      check_stitch<float>(one, "float32", 0, 6);
      check_stitch<float>(one, "float32", 3, 3);
      check_stitch<float>(two, "float32", 0, 3);
      check_stitch<double>(three, "float64", 1, 3);
    }
  }
}

TEST(tiles, a_map_without_pixels_is_left_alone) {
  const Given<float> given({1, 6, 9}, {4, 4}, {2, 2}, "float32", 1);
  Owned<float> out({0, 6, 9});
  CHECK(api::stitch(given.views(0, 2), view("out", out), given.tables, 0, 0) == -1);
}

TEST(tiles, bad_input_throws_and_nothing_is_written) {
  for (int what = 0; what < 20; ++what) {
    Given<float> bad({2, 6, 9}, {4, 4}, {2, 2}, "float32", 1);
    Owned<float> map({2, 6, 9}), window({4, 5});
    Owned<double> wide({2, 6, 9});
    api::Array out = view("out", map);
    api::TileTables& tables = bad.tables;
    std::vector<api::Array> tiles = bad.views(0, tables.axes[0].start.size());
    int64_t first_layer = 0, first_row = 0;
    if (what == 0) tiles.pop_back();
    if (what == 1) tiles.clear();
    if (what == 2) tiles.erase(tiles.begin(), tiles.begin() + bad.n_each), first_layer = 1;
    if (what == 3) first_row = 1;
    if (what == 4) first_row = -1;
    if (what == 5) first_layer = 1;
    if (what == 6) tiles[1].dtype = "float16";
    if (what == 7) tiles[1].shape[1] = 1;
    if (what == 8) tiles[1].stride[3 - 1] = 2;
    if (what == 9) out = view("out", wide);
    if (what == 10) out.dtype = "int32";
    if (what == 11) out.stride[2] = 2;
    if (what == 12) out.shape.pop_back(), out.stride.pop_back();
    if (what == 13) tables.axes[1].weight.pop_back();
    if (what == 14) tables.axes[1].end[0] = 1;  // a gap
    if (what == 15) tables.axes[0].begin[0] = 1;
    if (what == 16) tables.axes[0].end.pop_back();
    if (what == 17) tables.window = view("window", window);
    if (what == 18) tables.tile[1] = 0;
    if (what == 19) tables.axes[1].begin[1] = tables.axes[1].start[1] - 1;
    everywhere([&] {
      CHECK_THROWS(api::stitch(tiles, out, tables, first_layer, first_row), std::invalid_argument);
    });
    CHECK(map == Owned<float>({2, 6, 9}));
  }
}

TEST(tiles, halves_are_the_nearest_and_of_two_the_even_one) {
  for (uint32_t h = 0; h < 0x7c00; ++h) {  // finite, and the step to the next one
    const float here = half_to_float(static_cast<uint16_t>(h));
    const float next = h == 0x7bff ? 65536.0f : half_to_float(static_cast<uint16_t>(h + 1));
    const float tie = (here + next) / 2;
    const uint32_t even = h + (h & 1);
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1 : 1;
      CHECK(float_to_half(s * here) == (sign | h));
      CHECK(float_to_half(s * std::nextafter(tie, here)) == (sign | h));
      CHECK(float_to_half(s * tie) == (sign | even));
      CHECK(float_to_half(s * std::nextafter(tie, next)) == (sign | (h + 1)));
    }
  }
  for (const float v : {65536.0f, 1e30f, INFINITY}) {
    CHECK(float_to_half(v) == 0x7c00 && float_to_half(-v) == 0xfc00);
  }
  CHECK(float_to_half(1e-45f) == 0 && float_to_half(-1e-45f) == 0x8000);
}

TEST(tiles, bfloats_are_the_nearest_and_of_two_the_even_one) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    if ((h & 0x7fff) >= 0x7f80) continue;
    const auto from = [&](uint32_t low) { return float_to_bfloat(bits_to_float(h << 16 | low)); };
    CHECK(from(0) == h && from(1) == h && from(0x7fff) == h);
    CHECK(from(0x8000) == h + (h & 1));
    CHECK(from(0x8001) == h + 1 && from(0xffff) == h + 1);
  }
  CHECK(float_to_bfloat(INFINITY) == 0x7f80 && float_to_bfloat(-INFINITY) == 0xff80);
}

TEST(tiles, nan_stays_nan_when_narrowed) {
  for (const uint32_t sign : {0u, 0x80000000u}) {
    for (uint32_t rest = 1; rest < 0x800000; rest = rest * 3 / 2 + 1) {
      const float nan = bits_to_float(sign | 0x7f800000 | rest);
      const uint32_t bfloat = float_to_bfloat(nan);
      CHECK(std::isnan(half_to_float(float_to_half(nan))));
      CHECK(std::isnan(bits_to_float(bfloat << 16)) && bfloat >> 15 == sign >> 31);
    }
  }
}
