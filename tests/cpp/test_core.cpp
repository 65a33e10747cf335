// The maths of csrc/core alone, one item at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "arrays.h"
#include "check.h"
#include "core/flows_diffusion.h"
#include "core/flows_trace.h"
#include "core/labels_holes.h"
#include "core/union_find.h"

using namespace cellpost;
using cellpost::testing::Random;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

/// A padded field of a small image, filled with random vectors.
template <int N>
struct Field {
  static constexpr int64_t kWidth = N == 2 ? 2 : 4;
  std::vector<float> values;
  Trace trace;

  Field(const Shape& s, Sampling rule, float speed, int64_t n_steps, Random& random) {
    trace.pitch_y = kWidth * (s.x + 2);
    trace.rows_per_plane = static_cast<int32_t>(s.y + 2);
    trace.n_steps = n_steps;
    const int64_t length[3] = {s.x, s.y, s.z};
    for (int k = 0; k < 3; ++k) trace.axis[k] = make_axis(length[k], 0, length[k], rule);
    const int64_t n_planes = N == 3 ? s.z + 2 : 1;
    values.assign(static_cast<size_t>(n_planes * trace.rows_per_plane * trace.pitch_y), 0.0f);
    for (int64_t z = 0; z < s.z; ++z) {
      for (int64_t y = 0; y < s.y; ++y) {
        for (int64_t x = 0; x < s.x; ++x) {
          const int64_t at = (N == 3 ? z + 1 : 0) * trace.rows_per_plane * trace.pitch_y +
                             (y + 1) * trace.pitch_y + (x + 1) * kWidth;
          for (int k = 0; k < N; ++k) {
            values[static_cast<size_t>(at + k)] =
                random.real(-speed, speed) * trace.axis[k].flow_scale;
          }
        }
      }
    }
    trace.field = values.data();
  }
};

/// Every step walked, no search for cycles.
template <int N, Sampling S>
void walk(const Trace& trace, const int32_t (&start)[N], float (&end)[N]) {
  TraceState<float, N> state[1] = {trace_start<N, S, float>(trace, start)};
  int32_t from[1][N];
  std::copy(start, start + N, from[0]);
  for (int64_t i = 0; i < trace.n_steps; ++i) trace_step<N, S>(trace, from, state);
  trace_end<N, S>(trace, start, state[0], end);
}

template <int N, Sampling S>
void compare_follow_with_walk(const Shape& shape, float speed) {
  Random random(42);
  for (const int64_t n_steps : {0, 1, 2, 15, 16, 17, 33, 200, 333}) {
    const Field<N> field(shape, S, speed, n_steps, random);
    for (int64_t i = 0; i < shape.pixels(); ++i) {
      int32_t start[N];
      start[0] = static_cast<int32_t>(i % shape.x);
      start[1] = static_cast<int32_t>(i / shape.x % shape.y);
      if constexpr (N == 3) start[2] = static_cast<int32_t>(i / shape.x / shape.y);
      float followed[N], walked[N];
      CHECK((follow_point<N, S>(field.trace, start, followed)));
      walk<N, S>(field.trace, start, walked);
      const int64_t extent[3] = {shape.x, shape.y, shape.z};
      for (int k = 0; k < N; ++k) {
        CHECK(same_bits(followed[k], walked[k]));
        CHECK(followed[k] >= 0.0f && followed[k] <= static_cast<float>(extent[k] - 1));
      }
    }
  }
}

}  // namespace

TEST(core, half_to_float_is_exact_for_every_half) {
  for (uint32_t h = 0; h < 0x10000u; ++h) {
    const int exponent = static_cast<int>(h >> 10 & 31u), mantissa = static_cast<int>(h & 1023u);
    const float sign = h & 0x8000u ? -1.0f : 1.0f;
    const float got = half_to_float(static_cast<uint16_t>(h));
    if (exponent == 31) {
      CHECK(mantissa ? std::isnan(got) : got == sign * kInf);
    } else {
      const float value = exponent
                              ? std::ldexp(1024.0f + static_cast<float>(mantissa), exponent - 25)
                              : std::ldexp(static_cast<float>(mantissa), -24);
      CHECK(same_bits(got, sign * value));
    }
  }
}

TEST(core, finite_and_clamp) {
  CHECK(is_finite(0.0f) && is_finite(-3e38f));
  CHECK(!is_finite(kNan) && !is_finite(kInf) && !is_finite(-kInf));
  CHECK(lane_clamp(kNan, -1.0f, 1.0f) == -1.0f);
  CHECK(lane_clamp(kInf, -1.0f, 1.0f) == 1.0f);
  CHECK(lane_clamp(-kInf, -1.0f, 1.0f) == -1.0f);
  CHECK(lane_clamp(0.25f, -1.0f, 1.0f) == 0.25f);
}

TEST(core, float_view_reads_strides_and_dtypes) {
  const double values[6] = {1, 2, 3, 4, 5, 6};
  // (2, 3) read backwards along x.
  const FloatView view{values + 2, DType::f64, {0, 0, 3, -1}};
  CHECK(view.at(0, 0, 0, 0) == 3.0f && view.at(0, 0, 0, 2) == 1.0f && view.at(0, 0, 1, 1) == 5.0f);
  const uint16_t brain[1] = {0x3fc0};
  CHECK((FloatView{brain, DType::bf16, {0, 0, 0, 0}}.at(0, 0, 0, 0) == 1.5f));
  const bool truths[2] = {false, true};
  const MaskView mask{reinterpret_cast<const uint8_t*>(truths), {0, 0, 1}};
  CHECK(!mask.inside(0, 0, 0) && mask.inside(0, 0, 1));
}

/// Every 1009th float from 0 up, and as many doubles of all exponents.
template <int D>
void compare_with_division() {
  int n_different = 0;
  Random random(7);
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 1009) {
    const float narrow = bits_to_float(bits);
    n_different += divided_by_fma<D>(narrow) != narrow / static_cast<float>(D);
    const double wide =
        std::ldexp(random.real(0.5f, 1.0f) + bits * 0x1p-53, static_cast<int>(bits % 2098) - 1074);
    n_different += divided_by_fma<D>(wide) != wide / D;
  }
  CHECK(n_different == 0);
}

TEST(core, divided_by_fma_rounds_as_division_does) {
  compare_with_division<7>();
  compare_with_division<9>();
}

TEST(core, skipping_cycles_changes_no_bit) {
  for (const float speed : {0.0f, 0.3f, 1.0f, 50.0f}) {
    compare_follow_with_walk<2, Sampling::cellpose>({1, 7, 9, 2}, speed);
    compare_follow_with_walk<2, Sampling::centered>({1, 7, 9, 2}, speed);
    compare_follow_with_walk<2, Sampling::cellpose>({1, 1, 6, 2}, speed);
    compare_follow_with_walk<2, Sampling::centered>({1, 5, 1, 2}, speed);
    compare_follow_with_walk<3, Sampling::cellpose>({4, 3, 5, 3}, speed);
    compare_follow_with_walk<3, Sampling::centered>({4, 3, 5, 3}, speed);
    compare_follow_with_walk<3, Sampling::cellpose>({1, 1, 1, 3}, speed);
  }
}

TEST(core, a_point_that_leaves_its_window_says_so) {
  Random random(1);
  const Shape part{1, 4, 4, 2};
  Field<2> field(part, Sampling::centered, 0.0f, 50, random);
  // The window lies in the middle of an image of 20 x 20, and everything flows to the right.
  for (int k = 0; k < 2; ++k) field.trace.axis[k] = make_axis(20, 8, 4, Sampling::centered);
  for (size_t i = 0; i < field.values.size(); i += 2) field.values[i] = 0.5f;
  const int32_t start[2] = {9, 9};
  float end[2];
  CHECK(!(follow_point<2, Sampling::centered>(field.trace, start, end)));
}

TEST(core, flood_row_spreads_through_open_bits_only) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    constexpr int64_t kWords = 3, kBits = 64 * kWords;
    uint64_t open[kWords], seed[kWords], expected[kWords] = {0, 0, 0};
    for (int w = 0; w < kWords; ++w) {
      open[w] = round % 3 ? random.next() | random.next() : ~uint64_t{0} << (round % 64);
      seed[w] = open[w] & random.next() & random.next() & random.next();
    }
    const auto bit = [](const uint64_t* words, int64_t i) {
      return words[i / 64] >> (i % 64) & 1u;
    };
    bool inside = false;
    for (int64_t i = 0; i < kBits; ++i) {  // runs of open bits that hold a seed
      if (!bit(open, i)) continue;
      int64_t end = i;
      inside = false;
      for (; end < kBits && bit(open, end); ++end) inside = inside || bit(seed, end);
      for (; i < end; ++i) {
        if (inside) expected[i / 64] |= uint64_t{1} << (i % 64);
      }
      --i;
    }
    const bool more = std::memcmp(seed, expected, sizeof seed) != 0;
    CHECK(flood_row(open, seed, kWords) == more);
    CHECK(std::memcmp(seed, expected, sizeof seed) == 0);
    CHECK(!flood_row(open, seed, kWords));
  }
}

/// A chain that is walked is half as long afterwards, so that walking it again and again is cheap.
TEST(core, union_find_halves_the_paths_it_walks) {
  constexpr int32_t kLength = 1 << 12;
  std::vector<int32_t> parent(kLength);
  for (int32_t i = 0; i < kLength; ++i) parent[static_cast<size_t>(i)] = i > 0 ? i - 1 : 0;
  const UnionFind sets{{parent.data(), nullptr}};
  const auto depth = [&] {
    int64_t n = 0;
    for (int32_t i = kLength - 1; i != 0; i = parent[static_cast<size_t>(i)]) ++n;
    return n;
  };
  for (int64_t longest = kLength / 2; longest >= 2; longest /= 2) {
    CHECK(sets.find(kLength - 1) == 0);
    CHECK(depth() <= longest + 1);
  }
}

TEST(core, union_find_roots_are_the_smallest_index) {
  Random random(3);
  std::vector<int32_t> narrow(200);
  std::vector<int64_t> wide(200), plain(200);
  const UnionFind a{{narrow.data(), nullptr}}, b{{nullptr, wide.data()}};
  for (int64_t i = 0; i < 200; ++i) {
    StartSets{a.parent}(i);
    StartSets{b.parent}(i);
    plain[static_cast<size_t>(i)] = i;
  }
  for (int join = 0; join < 150; ++join) {
    const int64_t i = random.integer(200), j = random.integer(200);
    a.unite(i, j);
    b.unite(i, j);
    const int64_t p = plain[static_cast<size_t>(i)], q = plain[static_cast<size_t>(j)];
    for (int64_t& v : plain) {
      if (v == p || v == q) v = p < q ? p : q;
    }
  }
  for (int64_t i = 0; i < 200; ++i) {
    CHECK(a.find(i) == plain[static_cast<size_t>(i)]);
    CHECK(b.find(i) == plain[static_cast<size_t>(i)]);
  }
}
