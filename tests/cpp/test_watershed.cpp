// The watershed family and the measuring of objects through their C++ contracts, against plain
// floods and sums, at odd shapes, all CPU levels and thread counts.
#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <stdexcept>
#include <tuple>

#include "api/labels.h"
#include "api/properties.h"
#include "api/watershed.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using cellpost::testing::everywhere;
using cellpost::testing::Owned;
using cellpost::testing::Random;
using cellpost::testing::view;

namespace {

using Labels = Owned<int32_t>;
using Mask = Owned<bool>;

Mask random_mask(const std::vector<int64_t>& shape, float density, uint64_t seed) {
  Random random(seed);
  Mask mask(shape);
  for (bool& inside : mask) inside = random.real(0, 1) < density;
  return mask;
}

Shape to_shape(const std::vector<int64_t>& s) {
  return s.size() == 2 ? Shape{1, s[0], s[1], 2} : Shape{s[0], s[1], s[2], 3};
}

/// Calls visit(pixel) for the neighbours of a pixel, by distance, then in raster order.
template <class Visit>
void for_neighbours(const Shape& shape, int connectivity, int64_t pixel, const Visit& visit) {
  const Neighbours near(shape.ndim, connectivity);
  const int64_t z = pixel / shape.x / shape.y, y = pixel / shape.x % shape.y, x = pixel % shape.x;
  for (int k = 0; k < near.n; ++k) {
    const int64_t zz = z + near.step[k][0], yy = y + near.step[k][1], xx = x + near.step[k][2];
    if (shape.contains(zz, yy, xx)) visit((zz * shape.y + yy) * shape.x + xx);
  }
}

Labels plain_label(const Mask& mask, int connectivity) {
  const Shape shape = to_shape(mask.shape);
  Labels labels(mask.shape);
  int32_t n = 0;
  for (int64_t first = 0; first < shape.pixels(); ++first) {
    if (!mask[first] || labels[first] != 0) continue;
    std::vector<int64_t> stack{first};
    labels[first] = ++n;
    while (!stack.empty()) {
      const int64_t pixel = stack.back();
      stack.pop_back();
      for_neighbours(shape, connectivity, pixel, [&](int64_t other) {
        if (!mask[other] || labels[other] != 0) return;
        labels[other] = n;
        stack.push_back(other);
      });
    }
  }
  return labels;
}

/// One ordered set of (level, age) for the whole image.
Labels plain_watershed(const Owned<float>& energy, const Labels& markers, const Mask& mask,
                       int connectivity) {
  const Shape shape = to_shape(mask.shape);
  Labels labels(mask.shape);
  std::set<std::tuple<float, int64_t, int64_t>> queue;
  int64_t age = 0;
  for (int64_t i = 0; i < shape.pixels(); ++i) {
    if (!mask[i] || markers[i] == 0) continue;
    labels[i] = markers[i];
    queue.insert({energy[i], age++, i});
  }
  while (!queue.empty()) {
    const auto [level, was, pixel] = *queue.begin();
    queue.erase(queue.begin());
    for_neighbours(shape, connectivity, pixel, [&, l = level, p = pixel](int64_t other) {
      if (!mask[other] || labels[other] != 0) return;
      labels[other] = labels[p];
      queue.insert({std::max(l, energy[other]), age++, other});
    });
  }
  return labels;
}

struct HoverMaps {
  Owned<float> prob, hv;
};

/// Touching squares of 17 pixels, with noise.
HoverMaps squares(int64_t height, int64_t width, uint64_t seed) {
  Random random(seed);
  HoverMaps maps{Owned<float>({height, width}), Owned<float>({2, height, width})};
  for (int64_t i = 0; i < height * width; ++i) {
    const int64_t y = i / width, x = i % width;
    maps.prob[i] = y % 40 < 34 && x % 40 < 34 ? random.real(0.45f, 1.0f) : random.real(0.0f, 0.52f);
    maps.hv[i] = static_cast<float>(x % 40 % 17) / 8.0f - 1.0f + random.real(-0.1f, 0.1f);
    maps.hv[height * width + i] =
        static_cast<float>(y % 40 % 17) / 8.0f - 1.0f + random.real(-0.1f, 0.1f);
  }
  return maps;
}

}  // namespace

TEST(watershed, components_are_those_of_a_flood) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{1, 1},
                                            {1, 130},
                                            {65, 1},
                                            {70, 64},
                                            {41, 129},
                                            {5, 9, 70},
                                            {1, 1, 64}}) {
    for (const float density : {0.0f, 0.3f, 0.6f, 1.0f}) {
      const Mask mask = random_mask(shape, density, 1);
      for (int connectivity = 1; connectivity <= static_cast<int>(shape.size()); ++connectivity) {
        const Labels expected = plain_label(mask, connectivity);
        everywhere([&] {
          Labels labels(shape);
          const int64_t n = api::label(view("mask", mask), connectivity, view("labels", labels));
          CHECK(labels == expected);
          CHECK(n == *std::max_element(expected.data.get(), expected.data.get() + labels.size()));
        });
      }
    }
  }
}

TEST(watershed, flooding_is_that_of_one_queue) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1, 1}, {1, 90}, {33, 70}, {6, 9, 20}}) {
    for (const int n_levels : {3, 1000000}) {
      Random random(2);
      Owned<float> energy(shape);
      Labels markers(shape);
      for (float& v : energy) v = static_cast<float>(random.integer(n_levels));
      for (int32_t& id : markers)
        id = random.integer(20) == 0 ? 1 + static_cast<int32_t>(random.integer(30)) : 0;
      for (const float density : {0.7f, 1.0f}) {
        const Mask mask = random_mask(shape, density, 3);
        for (int connectivity = 1; connectivity <= static_cast<int>(shape.size()); ++connectivity) {
          const Labels expected = plain_watershed(energy, markers, mask, connectivity);
          everywhere([&] {
            Labels labels = markers.copy();
            api::watershed(view("energy", energy), view("mask", mask), connectivity,
                           view("labels", labels));
            CHECK(labels == expected);
          });
        }
      }
    }
  }
}

TEST(watershed, derivatives_are_the_scalar_ones_everywhere) {
  const HoverMaps maps = squares(150, 301, 4);
  for (const HoverStyle style : {HoverStyle::hovernet, HoverStyle::monai}) {
    for (const int64_t ksize : {3, 5, 21, 31}) {
      api::HoverParameters parameters;
      parameters.style = style;
      parameters.ksize = ksize;
      const HoverRanges ranges = api::hover_ranges(view("hv", maps.hv), parameters);
      const Shape shape{1, 150, 301, 2};
      const HoverGradient gradient{
          style,
          {maps.hv.data.get(), DType::f32, {shape.pixels(), 0, shape.x, 1}},
          shape,
          SobelKernels(style, static_cast<int>(ksize)),
          {Rescale(style, ranges.value[0]), Rescale(style, ranges.value[1])}};
      const int r = gradient.kernels.radius, size = gradient.kernels.size;
      std::optional<Owned<double>> expected;
      everywhere([&] {
        Owned<double> got({2, shape.y, shape.x});
        api::hover_gradients(view("hv", maps.hv), parameters, view("out", got));
        if (!expected) expected.emplace(got.copy());
        CHECK(got == *expected);
      });
      for (int c = 0; c < 2; ++c) {
        for (int64_t y = 0; y < shape.y; y += 7) {
          for (int64_t x = 0; x < shape.x; x += 5) {
            // rows of the surroundings, filtered as a CUDA block filters them
            float window[SobelKernels::kMostSize][SobelKernels::kMostSize];
            for (int i = 0; i < size; ++i) {
              for (int j = 0; j < size; ++j) {
                window[i][j] =
                    gradient.value(c, mirrored(y - r + i, shape.y), mirrored(x - r + j, shape.x));
              }
            }
            double value;
            if (style == HoverStyle::hovernet) {
              double sums[SobelKernels::kMostSize];
              for (int i = 0; i < size; ++i) {
                sums[i] = sum_row(gradient.row_kernel(c), size, window[i]);
              }
              value = sum_column(gradient.column_kernel(c), r, c == 1, sums + r, 1);
            } else {
              float sums[SobelKernels::kMostSize];
              for (int j = 0; j < size; ++j) {
                sums[j] = sum_fused(gradient.column_kernel(c), size, &window[0][j],
                                    SobelKernels::kMostSize);
              }
              value = static_cast<double>(sum_fused(gradient.row_kernel(c), size, sums, 1));
            }
            CHECK(value == (*expected)[(c * shape.y + y) * shape.x + x]);
          }
        }
      }
    }
  }
}

TEST(watershed, hover_labels_are_the_same_everywhere_and_the_stages_add_up) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {90, 130}, {3, 200}}) {
    const HoverMaps maps = squares(height, width, 5);
    for (const HoverStyle style : {HoverStyle::hovernet, HoverStyle::monai}) {
      api::HoverParameters parameters;
      parameters.style = style;
      parameters.ksize = 5;
      parameters.radius = 1;
      std::optional<Labels> expected;
      everywhere([&] {
        Labels labels({height, width}), markers({height, width});
        Owned<double> energy({height, width});
        Mask mask({height, width});
        const HoverReport report = api::hover_watershed(
            view("prob", maps.prob), view("hv", maps.hv), parameters, view("labels", labels));
        if (!expected) expected.emplace(labels.copy());
        CHECK(labels == *expected);
        api::watershed_markers(view("prob", maps.prob), view("hv", maps.hv), parameters,
                               view("markers", markers), view("energy", energy),
                               view("mask", mask));
        api::watershed(view("energy", energy), view("mask", mask), 1, view("labels", markers));
        CHECK(api::relabel(view("labels", markers)) == report.n_labels);
        CHECK(markers == labels);
        CHECK(height < 90 || report.n_labels > 8);
      });
    }
  }
}

TEST(watershed, holes_and_opening_keep_their_promises) {
  const Mask mask = random_mask({67, 130}, 0.7f, 6);
  everywhere([&] {
    Mask filled({67, 130}), again({67, 130}), opened({67, 130});
    api::fill_mask_holes(view("mask", mask), 1, view("out", filled));
    api::fill_mask_holes(view("mask", filled), 1, view("out", again));
    api::open_mask(view("mask", filled), 1, api::FootprintShape::disk, view("out", opened));
    CHECK(filled == again);
    for (int64_t i = 0; i < 67 * 130; ++i) {
      CHECK(!mask[i] || filled[i]);
      CHECK(!opened[i] || filled[i]);
    }
  });
}

TEST(watershed, measures_of_objects_are_plain_sums) {
  const Labels labels = plain_label(random_mask({80, 133}, 0.55f, 7), 1);
  const int64_t n = api::count_labels(view("labels", labels));
  everywhere([&] {
    Owned<int32_t> id({n});
    Owned<int64_t> area({n}), bbox({n, 4}), offsets({n + 1});
    Owned<double> centroid({n, 2}), covariance({n, 2, 2}), perimeter({n});
    api::PropertyArrays out{view("label", id),
                            view("area", area),
                            view("bbox", bbox),
                            view("centroid", centroid),
                            view("covariance", covariance),
                            view("perimeter", perimeter),
                            std::nullopt,
                            std::nullopt,
                            std::nullopt};
    api::measure_objects(view("labels", labels), std::nullopt, out);
    const api::Array first = view("offsets", offsets);
    api::find_outlines(view("labels", labels), first);
    Owned<int32_t> points({offsets[n], 2});
    api::trace_outlines(view("labels", labels), first, view("points", points));
    for (int64_t i = 0; i < n; ++i) {
      int64_t count = 0, sum_y = 0, sum_x = 0, enclosed = 0;
      for (int64_t p = 0; p < 80 * 133; ++p) {
        if (labels[p] != id[i]) continue;
        ++count, sum_y += p / 133, sum_x += p % 133;
      }
      CHECK(area[i] == count);
      CHECK(std::abs(centroid[2 * i] * static_cast<double>(count) - static_cast<double>(sum_y)) <
            1e-6);
      CHECK(std::abs(centroid[2 * i + 1] * static_cast<double>(count) -
                     static_cast<double>(sum_x)) < 1e-6);
      for (int64_t k = offsets[i]; k + 1 < offsets[i + 1]; ++k) {
        enclosed += int64_t{points[2 * k]} * points[2 * k + 3] -
                    int64_t{points[2 * k + 2]} * points[2 * k + 1];
        CHECK(points[2 * k] >= bbox[4 * i + 1] && points[2 * k] <= bbox[4 * i + 3]);
        CHECK(points[2 * k + 1] >= bbox[4 * i] && points[2 * k + 1] <= bbox[4 * i + 2]);
      }
      CHECK(enclosed >= 2 * count);  // holes are enclosed, too
    }
  });
}

TEST(watershed, bad_arguments_are_named) {
  Mask mask({4, 5});
  Labels labels({4, 5});
  const HoverMaps maps = squares(4, 5, 1);
  api::HoverParameters parameters;
  parameters.ksize = 2;
  Owned<int64_t> offsets({7});
  CHECK_THROWS(api::label(view("mask", mask), 3, view("labels", labels)), std::invalid_argument);
  CHECK_THROWS(api::label(view("mask", labels), 1, view("labels", labels)), std::invalid_argument);
  CHECK_THROWS(api::hover_watershed(view("prob", maps.prob), view("hv", maps.hv), parameters,
                                    view("labels", labels)),
               std::invalid_argument);
  CHECK_THROWS(api::find_outlines(view("labels", labels), view("offsets", offsets)),
               std::invalid_argument);
}
