// The flows family through its C++ contract: the same bits at every CPU level and thread count, on
// blocks of exactly the size needed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>

#include "api/flows.h"
#include "api/labels.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using cellpost::testing::everywhere;
using cellpost::testing::Owned;
using cellpost::testing::product;
using cellpost::testing::Random;
using cellpost::testing::view;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Maps {
  Owned<float> dP, cellprob;
};

std::vector<int64_t> with_channels(const std::vector<int64_t>& shape) {
  std::vector<int64_t> all = shape;
  all.insert(all.begin(), static_cast<int64_t>(shape.size()));
  return all;
}

/// Flow towards the nearest of some random centres, plus noise; everything near one is a cell.
Maps cells(const std::vector<int64_t>& shape, int64_t n, float noise, uint64_t seed) {
  Random random(seed);
  Maps maps{Owned<float>(with_channels(shape)), Owned<float>(shape)};
  const int64_t ndim = static_cast<int64_t>(shape.size()), n_pixels = product(shape);
  std::vector<float> centres;
  for (int64_t i = 0; i < n * ndim; ++i) {
    centres.push_back(random.real(0, static_cast<float>(shape[static_cast<size_t>(i % ndim)])));
  }
  for (int64_t p = 0; p < n_pixels; ++p) {
    float best = kInf, towards[3] = {0, 0, 0};
    for (int64_t i = 0; i < n; ++i) {
      float far = 0, d[3];
      for (int64_t k = ndim - 1, rest = p; k >= 0; --k) {
        const int64_t length = shape[static_cast<size_t>(k)];
        d[k] = centres[static_cast<size_t>(i * ndim + k)] - static_cast<float>(rest % length);
        far += d[k] * d[k];
        rest /= length;
      }
      if (far < best) best = far, std::copy(d, d + ndim, towards);
    }
    const float length = std::max(std::sqrt(best), 1.0f);
    maps.cellprob[p] = 6.0f - std::sqrt(best);
    for (int64_t k = 0; k < ndim; ++k) {
      maps.dP[k * n_pixels + p] = 5 * towards[k] / length + random.real(-noise, noise);
    }
  }
  return maps;
}

Maps noise(const std::vector<int64_t>& shape, float speed, uint64_t seed) {
  Random random(seed);
  Maps maps{Owned<float>(with_channels(shape)), Owned<float>(shape)};
  for (float& v : maps.dP) v = random.real(-speed, speed);
  for (float& v : maps.cellprob) v = random.real(-1, 2);
  return maps;
}

Owned<bool> foreground(const Maps& maps) {
  Owned<bool> mask(maps.cellprob.shape);
  for (size_t i = 0; i < mask.size(); ++i) mask.data[i] = maps.cellprob.data[i] > 0;
  return mask;
}

Owned<float> end_points(const Maps& maps, const Owned<bool>& mask, int64_t niter, Sampling rule) {
  const int64_t n = api::count_foreground(view("mask", mask));
  Owned<float> ends({static_cast<int64_t>(mask.shape.size()), n});
  api::flow_endpoints(view("dP", maps.dP), view("mask", mask), niter, rule, {}, {},
                      view("endpoints", ends));
  return ends;
}

/// One point after the other with the scalar functions of the core.
template <int N, Sampling S>
Owned<float> plain_end_points(const Maps& maps, const Owned<bool>& mask, int64_t niter) {
  const auto& s = mask.shape;
  const Shape shape = N == 2 ? Shape{1, s[0], s[1], 2} : Shape{s[0], s[1], s[N - 1], 3};
  const int64_t n_pixels = shape.pixels(), width = N == 2 ? 2 : 4;
  Trace trace;
  trace.pitch_y = width * (shape.x + 2);
  trace.rows_per_plane = static_cast<int32_t>(shape.y + 2);
  trace.n_steps = niter;
  const int64_t length[3] = {shape.x, shape.y, shape.z};
  for (int k = 0; k < 3; ++k) trace.axis[k] = make_axis(length[k], 0, length[k], S);
  std::vector<float> field(
      static_cast<size_t>((N == 3 ? shape.z + 2 : 1) * trace.rows_per_plane * trace.pitch_y));
  for (int64_t p = 0; p < n_pixels; ++p) {
    const int64_t z = p / shape.x / shape.y, y = p / shape.x % shape.y, x = p % shape.x;
    const int64_t at = (N == 3 ? z + 1 : 0) * trace.rows_per_plane * trace.pitch_y +
                       (y + 1) * trace.pitch_y + (x + 1) * width;
    for (int k = 0; k < N; ++k) {
      const float flow = mask[p] ? maps.dP[(N - 1 - k) * n_pixels + p] : 0.0f;
      field[static_cast<size_t>(at + k)] = flow / 5.0f * trace.axis[k].flow_scale;
    }
  }
  trace.field = field.data();
  const int64_t n = api::count_foreground(view("mask", mask));
  Owned<float> ends({N, n});
  int64_t i = 0;
  for (int64_t p = 0; p < n_pixels; ++p) {
    if (!mask[p]) continue;
    int32_t start[N];
    start[0] = static_cast<int32_t>(p % shape.x);
    start[1] = static_cast<int32_t>(p / shape.x % shape.y);
    if constexpr (N == 3) start[2] = static_cast<int32_t>(p / shape.x / shape.y);
    float end[N];
    CHECK((follow_point<N, S>(trace, start, end)));
    for (int k = 0; k < N; ++k) ends[(N - 1 - k) * n + i] = end[k];
    ++i;
  }
  return ends;
}

struct Followed {
  Owned<int32_t> labels;
  FlowReport report;
};

Followed follow(const Maps& maps, const FollowOptions& options = {}) {
  Followed f{Owned<int32_t>(maps.cellprob.shape), {}};
  f.report = api::follow_flows(view("dP", maps.dP), view("cellprob", maps.cellprob), options,
                               view("labels", f.labels));
  return f;
}

const std::vector<std::vector<int64_t>> kShapes = {
    {1, 1}, {1, 19}, {23, 1}, {3, 5}, {17, 33}, {70, 300}, {1, 1, 1}, {3, 4, 5}, {9, 18, 21}};

}  // namespace

TEST(flows, end_points_are_the_scalar_ones_everywhere) {
  for (const auto& shape : kShapes) {
    for (const float speed : {0.0f, 5.0f, 1e4f}) {
      const Maps maps = noise(shape, speed, 1);
      const Owned<bool> mask = foreground(maps);
      for (const int64_t niter : {0, 1, 50, 200}) {
        const bool flat = shape.size() == 2;
        const Owned<float> cellpose =
            flat ? plain_end_points<2, Sampling::cellpose>(maps, mask, niter)
                 : plain_end_points<3, Sampling::cellpose>(maps, mask, niter);
        const Owned<float> centered =
            flat ? plain_end_points<2, Sampling::centered>(maps, mask, niter)
                 : plain_end_points<3, Sampling::centered>(maps, mask, niter);
        everywhere([&] {
          CHECK(end_points(maps, mask, niter, Sampling::cellpose) == cellpose);
          CHECK(end_points(maps, mask, niter, Sampling::centered) == centered);
        });
      }
    }
  }
}

TEST(flows, labels_are_the_same_everywhere) {
  for (const auto& shape : kShapes) {
    const Maps maps = cells(shape, 9, 2.0f, 3);
    for (const Sampling sampling : {Sampling::cellpose, Sampling::centered}) {
      for (const Fragments fragments : {Fragments::keep, Fragments::largest, Fragments::split}) {
        FollowOptions options;
        options.sampling = sampling;
        options.fragments = fragments;
        const Followed expected = follow(maps, options);
        everywhere([&] {
          const Followed now = follow(maps, options);
          CHECK(now.labels == expected.labels);
          CHECK(std::memcmp(&now.report, &expected.report, sizeof now.report) == 0);
        });
      }
    }
  }
}

TEST(flows, cells_that_are_there_are_found) {
  const Maps maps = cells({70, 300}, 9, 0.0f, 3);
  const Followed f = follow(maps);
  CHECK(f.report.n_labels >= 5 && f.report.n_labels <= 9);
  int32_t most = 0;
  for (size_t p = 0; p < f.labels.size(); ++p) {
    most = std::max(most, f.labels.data[p]);
    if (f.labels.data[p] > 0 && f.report.n_hole_pixels == 0) CHECK(maps.cellprob.data[p] > 0);
  }
  CHECK(most == f.report.n_labels);
}

TEST(flows, a_window_gives_the_whole_images_end_points) {
  const Maps maps = cells({40, 60}, 8, 1.0f, 5);
  const Owned<bool> mask = foreground(maps);
  const int64_t y0 = 7, x0 = 11, ny = 25, nx = 38;
  Maps part{Owned<float>({2, ny, nx}), Owned<float>({ny, nx})};
  Owned<bool> part_mask({ny, nx});
  for (int64_t y = 0; y < ny; ++y) {
    for (int64_t x = 0; x < nx; ++x) {
      const int64_t from = (y0 + y) * 60 + x0 + x;
      part_mask[y * nx + x] = mask[from];
      for (int64_t k = 0; k < 2; ++k) {
        part.dP[(k * ny + y) * nx + x] = maps.dP[k * 40 * 60 + from];
      }
    }
  }
  const int64_t n_whole = api::count_foreground(view("mask", mask));
  const int64_t n = api::count_foreground(view("mask", part_mask));
  for (const Sampling rule : {Sampling::cellpose, Sampling::centered}) {
    const Owned<float> all = end_points(maps, mask, 200, rule);
    everywhere([&] {
      Owned<float> ends({2, n});
      api::flow_endpoints(view("dP", part.dP), view("mask", part_mask), 200, rule, {y0, x0},
                          {40, 60}, view("endpoints", ends));
      int64_t i_whole = 0, i = 0, n_same = 0;
      for (int64_t p = 0; p < 40 * 60; ++p) {
        if (!mask[p]) continue;
        const int64_t y = p / 60 - y0, x = p % 60 - x0;
        if (y >= 0 && y < ny && x >= 0 && x < nx) {
          for (int64_t k = 0; k < 2; ++k) {
            const float got = ends[k * n + i];
            CHECK(std::isnan(got) || got == all[k * n_whole + i_whole]);
            n_same += !std::isnan(got);
          }
          ++i;
        }
        ++i_whole;
      }
      CHECK(i == n && n_same > n);  // most points stay inside
    });
  }
}

TEST(flows, values_that_are_no_numbers_are_harmless) {
  Maps maps = cells({31, 47}, 6, 1.0f, 2);
  Maps clean{maps.dP.copy(), maps.cellprob.copy()};
  Random random(8);
  const float odd[] = {kNan, kInf, -kInf};
  for (int64_t i = 0; i < 60; ++i) {
    const int64_t p = random.integer(31 * 47);
    maps.dP[p] = odd[i % 3];
    clean.dP[p] = clean.dP[31 * 47 + p] = 0.0f;  // the other component does not count either
    const int64_t q = random.integer(31 * 47);
    maps.cellprob[q] = odd[i % 3];
    clean.cellprob[q] = -1.0f;
  }
  const Followed expected = follow(clean);
  CHECK(expected.report.n_labels > 0);
  everywhere([&] { CHECK(follow(maps).labels == expected.labels); });
  for (float& v : maps.dP) v *= 1e37f;  // as large as floats get
  everywhere([&] { follow(maps); });
}

TEST(flows, dtypes_and_strides_do_not_matter) {
  Maps maps = cells({20, 30}, 4, 0.0f, 4);
  Random random(6);
  for (float& v : maps.dP) v = std::round(v * 8) / 8;  // exact in half precision
  const Followed expected = follow(maps);
  Owned<double> wide(maps.dP.shape);
  std::copy(maps.dP.begin(), maps.dP.end(), wide.begin());
  Owned<float> mirrored(maps.dP.shape);  // rows and columns stored backwards
  for (int64_t k = 0; k < 2; ++k) {
    for (int64_t p = 0; p < 600; ++p) mirrored[k * 600 + 599 - p] = maps.dP[k * 600 + p];
  }
  api::Array backwards = view("dP", mirrored);
  backwards.data = mirrored.begin() + 599;
  backwards.stride = {600, -30, -1};
  for (const api::Array& dP : {view("dP", wide), backwards}) {
    Owned<int32_t> labels({20, 30});
    api::follow_flows(dP, view("cellprob", maps.cellprob), {}, view("labels", labels));
    CHECK(labels == expected.labels);
  }
}

TEST(flows, targets_and_errors_are_the_same_everywhere) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1, 1}, {1, 12}, {37, 53}, {7, 14, 15}}) {
    const Maps maps = cells(shape, 6, 0.5f, 7);
    FollowOptions options;
    options.flow_threshold = 0;
    options.min_size = 1;
    Owned<int32_t> labels = follow(maps, options).labels;
    for (int32_t& id : labels) id *= 3;  // gaps are allowed
    const int64_t n = api::count_labels(view("labels", labels));
    std::optional<Owned<float>> flows;
    std::optional<Owned<double>> errors;
    everywhere([&] {
      Owned<float> flow(maps.dP.shape);
      Owned<double> error({n});
      api::masks_to_flows(view("labels", labels), -1, view("flows", flow));
      api::flow_error(view("labels", labels), view("dP", maps.dP), -1, {}, view("errors", error));
      if (!flows) flows.emplace(flow.copy()), errors.emplace(error.copy());
      CHECK(flow == *flows);
      CHECK(error == *errors);
    });
    const int64_t n_pixels = product(shape);
    for (int64_t p = 0; p < n_pixels; ++p) {
      float square = 0;
      for (size_t k = 0; k < shape.size(); ++k) {
        const float v = (*flows)[static_cast<int64_t>(k) * n_pixels + p];
        square += v * v;
      }
      // Unit length in float32: an ulp in each component.
      CHECK(labels[p] ? std::abs(square - 1) < 1e-6f || square == 0 : square == 0);
    }
    for (const double e : *errors) CHECK(e >= 0);
  }
}

/// Objects of random pixels all over the image touch each other's rows: they diffuse in place.
TEST(flows, scattered_objects_do_not_disturb_each_other) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{61, 83}, {9, 31, 30}}) {
    Random random(11);
    Owned<int32_t> labels(shape);
    for (int32_t& id : labels) id = static_cast<int32_t>(random.integer(40));
    std::optional<Owned<float>> together;
    everywhere([&] {
      std::vector<int64_t> flow_shape = shape;
      flow_shape.insert(flow_shape.begin(), static_cast<int64_t>(shape.size()));
      Owned<float> flow(flow_shape);
      api::masks_to_flows(view("labels", labels), 20, view("flows", flow));
      if (!together) together.emplace(flow.copy());
      CHECK(flow == *together);
    });
  }
}

/// Bins of a part of the image, followed in windows that grow until nothing leaves them.
Owned<int64_t> bins_of_part(const Maps& maps, const FollowOptions& options, int64_t y0, int64_t x0,
                            int64_t height, int64_t width) {
  const auto& shape = maps.cellprob.shape;
  Owned<int64_t> bins({height, width});
  std::fill(bins.begin(), bins.end(), kEscaped);
  for (int64_t halo = 1; std::count(bins.begin(), bins.end(), kEscaped) > 0; halo *= 2) {
    CHECK(halo < 1000);
    const int64_t y = std::max<int64_t>(y0 - halo, 0), x = std::max<int64_t>(x0 - halo, 0);
    const int64_t h = std::min(y0 + height + halo, shape[0]) - y;
    const int64_t w = std::min(x0 + width + halo, shape[1]) - x;
    Maps part{Owned<float>({2, h, w}), Owned<float>({h, w})};
    for (int64_t i = 0; i < h * w; ++i) {
      const int64_t from = (y + i / w) * shape[1] + x + i % w;
      part.cellprob[i] = maps.cellprob[from];
      for (int64_t c = 0; c < 2; ++c) {
        part.dP[c * h * w + i] = maps.dP[c * shape[0] * shape[1] + from];
      }
    }
    api::follow_region(view("dP", part.dP), view("cellprob", part.cellprob), options, {y, x}, shape,
                       {y0 - y, x0 - x}, view("bins", bins));
  }
  return bins;
}

TEST(flows, stages_on_windows_give_the_whole_images_labels) {
  const std::vector<int64_t> shape{43, 57};
  const Maps maps = cells(shape, 12, 2.0f, 3);
  FollowOptions options;
  options.flow_threshold = 0;
  options.min_size = 0;
  options.max_size_fraction = 1;
  options.fill_holes = false;
  const Owned<int32_t> expected = follow(maps, options).labels;
  everywhere([&] {
    Owned<int64_t> bins = bins_of_part(maps, options, 0, 0, 43, 57);
    Owned<int64_t> by_part(shape);
    Owned<int32_t> counts(shape), by_window(shape);
    api::count_bins(view("bins", bins), {0, 0}, shape, view("counts", counts));
    for (int64_t y = 0; y < 43; y += 9) {
      for (int64_t x = 0; x < 57; x += 13) {
        const int64_t h = std::min<int64_t>(9, 43 - y), w = std::min<int64_t>(13, 57 - x);
        const Owned<int64_t> part = bins_of_part(maps, options, y, x, h, w);
        Owned<int32_t> window({h, w});
        api::count_bins(view("bins", bins), {y, x}, shape, view("counts", window));
        for (int64_t i = 0; i < h * w; ++i) {
          by_part[(y + i / w) * 57 + x + i % w] = part[i];
          by_window[(y + i / w) * 57 + x + i % w] = window[i];
        }
      }
    }
    CHECK(by_part == bins);
    CHECK(by_window == counts);
    Owned<int64_t> boxes({4, 4});
    for (int64_t i = 0; i < 16; ++i) boxes[i] = i % 4 < 2 ? int64_t{1} << 60 : 0;
    api::bound_bins(view("bins", bins), shape, {22, 29}, view("boxes", boxes));
    for (const int64_t bin : bins) {
      if (bin < 0) continue;
      const int64_t y = bin / 57, x = bin % 57, cell = 4 * (y / 22 * 2 + x / 29);
      CHECK(boxes[cell] <= y && boxes[cell + 1] <= x);
      CHECK(y < boxes[cell + 2] && x < boxes[cell + 3]);
    }
    std::vector<int64_t> seeds = api::find_seeds(view("counts", counts));
    std::stable_sort(seeds.begin(), seeds.end(),
                     [&](int64_t a, int64_t b) { return counts[a] < counts[b]; });
    Owned<int32_t> labels(shape);
    api::label_bins(view("bins", bins), view("counts", counts), seeds, {0, 0}, shape,
                    view("labels", labels));
    api::relabel(view("labels", labels));
    CHECK(labels == expected);
  });
}

TEST(flows, a_survey_measures_objects_and_finds_holes) {
  Owned<int32_t> labels({5, 7});
  for (int64_t i = 0; i < 35; ++i) {
    const int64_t y = i / 7, x = i % 7;
    if (x >= 2 && x <= 4 && y >= 1 && y <= 3) labels[i] = y == 2 && x == 3 ? 0 : 3;
  }
  labels[0] = 1;
  everywhere([&] {
    Owned<int64_t> rows({3, 6});
    Owned<int32_t> has_hole({3});
    api::survey_objects(view("labels", labels), view("rows", rows), view("has_hole", has_hole));
    const int64_t first[] = {1, 0, 0, 0, 1, 1}, third[] = {8, 9, 1, 2, 4, 5};
    CHECK(std::equal(first, first + 6, rows.begin()));
    CHECK(rows[6] == 0);
    CHECK(std::equal(third, third + 6, rows.begin() + 12));
    CHECK(has_hole[0] == 0 && has_hole[1] == 0 && has_hole[2] == 1);
    Owned<int32_t> mapped = labels.copy(), map({4});
    map[1] = 7;
    map[3] = 5;
    api::map_labels(view("labels", mapped), view("map", map));
    for (int64_t i = 0; i < 35; ++i) CHECK(mapped[i] == map[labels[i]]);
  });
}

TEST(flows, bad_arguments_are_named) {
  Maps maps = cells({8, 9}, 1, 0, 1);
  Owned<int32_t> labels({8, 9});
  const auto call = [&](const api::Array& dP, const FollowOptions& options) {
    api::follow_flows(dP, view("cellprob", maps.cellprob), options, view("labels", labels));
  };
  const api::Array good = view("dP", maps.dP);
  FollowOptions options;
  call(good, options);
  api::Array bad = good;
  bad.dtype = "int32";
  CHECK_THROWS(call(bad, options), std::invalid_argument);
  bad = good;
  bad.shape[0] = 3;
  CHECK_THROWS(call(bad, options), std::invalid_argument);
  options.n_steps = -1;
  CHECK_THROWS(call(good, options), std::invalid_argument);
  options = {};
  options.flow_threshold = std::nan("");
  CHECK_THROWS(call(good, options), std::invalid_argument);
  options = {};
  options.max_size_fraction = -0.5;
  try {
    call(good, options);
    CHECK(false);
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).find("max_size_fraction") == 0);
  }
}
