// The paste family's C++ contracts against plain loops, at all CPU levels and thread counts.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <stdexcept>

#include "api/nms.h"
#include "arrays.h"
#include "check.h"

using namespace cellpost;
using namespace cellpost::testing;

namespace {

using Labels = Owned<int32_t>;
using Rows = std::vector<int64_t>;  // and shapes

struct Given {
  api::Array masks;
  std::optional<api::CropTable> table;
  Owned<float> boxes;
  Owned<double> scores;  // by id
  api::PasteParameters parameters;

  Paste job(const Rows& image) const {
    const Shape shape{1, image[0], image[1], 2};
    return api::paste_job(masks, table, view("boxes", boxes), parameters, shape);
  }
  void paste(const Labels& labels, int64_t first_id = 1) const {
    api::paste(masks, table, view("boxes", boxes), view("scores", scores), view("labels", labels),
               first_id, parameters);
  }
};

/// Boxes of seven kinds, and scores for `n_ids`: some are equal, the first is above all others.
Given odd_boxes(const api::Array& masks, int64_t n, const Rows& image, int64_t n_ids) {
  Random random(11);
  Given all{masks, {}, Owned<float>({n, 4}), Owned<double>({n_ids + 1}), {}};
  const auto rows = static_cast<float>(image[0]), columns = static_cast<float>(image[1]);
  for (int64_t id = 1; id <= n_ids; ++id) all.scores[id] = id == 1 ? n : random.integer(n);
  for (int64_t i = 0; i < n; ++i) {
    const float x = random.real(-8, columns), y = random.real(-8, rows);
    const float w = random.real(0.5f, 110), h = random.real(0.5f, 30), far = w * 3e36f;
    const float kinds[][4] = {
        {x, y, x + w, y + h},
        {-w, -h, columns + h - 15, rows + h - 15},  // more than a thread, or a kernel, takes
        {x, rows + 40, x + w, rows + 40 + h},       // off the image
        {x, y, x + 0.4f, y + h},                    // thinner than a pixel
        {-far, -far, far, far},                     // sides beyond float32's range
        {x + w, y, x, y},                           // without area
        {std::floor(x), std::floor(y), std::floor(x) + 9, std::floor(y) + 7}};
    std::copy(kinds[i % 7], kinds[i % 7] + 4, &all.boxes[4 * i]);
  }
  return all;
}

/// Of one instance alone, at every pixel of the image.
std::vector<float> plain_values(const Paste& job, int64_t i) {
  std::vector<float> values(job.shape.pixels());
  const PasteAxis down = job.y_axis(i), across = job.x_axis(i);
  for (int64_t k = 0; k < job.shape.pixels(); ++k) {
    const int64_t y = k / job.shape.x - job.offset[0], x = k % job.shape.x - job.offset[1];
    values[k] = job.value(i, down.tap(y), across.tap(x), bilinear_sum(job.style, down, across));
  }
  return values;
}

void plain_paste(const Given& given, Labels& labels, int64_t first_id = 1) {
  const Paste job = given.job(labels.shape);
  for (int64_t i = 0; i < job.crops.n; ++i) {
    const double score = given.scores[first_id + i];
    if (score < given.parameters.min_score || !job.has_area(i)) continue;
    int32_t* label = labels.begin();
    for (const float value : plain_values(job, i)) {
      const bool is_better = *label == 0 || score > given.scores[*label];
      if (value >= job.threshold && is_better) *label = static_cast<int32_t>(first_id + i);
      ++label;
    }
  }
}

void check_paste(const Given& given, const Rows& image) {
  Labels expected(image);
  plain_paste(given, expected);
  everywhere([&] {
    Labels labels(image);
    given.paste(labels);
    CHECK(labels == expected);
  });
}

/// Floats from 0 to 1, whole numbers 0 and 1, or halves, as their bits, from 1/4 to 1.
template <class T>
Owned<T> random_crops(const Rows& shape) {
  Random random(12);
  Owned<T> masks(shape);
  for (T& v : masks) {
    const int64_t k = random.integer(65), half = 0x3c00 - 32 * k;
    v = static_cast<T>(std::is_floating_point_v<T> ? k / 64.0 : sizeof(T) == 1 ? k / 32 : half);
  }
  return masks;
}

/// Suppresses everywhere and by the sequential rule.
void check_nms(api::NmsArrays arrays, SuppressRule rule, const std::optional<api::NmsMasks>& masks,
               const std::function<bool(int64_t, int64_t)>& overlap) {
  const int64_t n = arrays.boxes.shape[0];
  Rows kept, keeper_of(n);
  std::multimap<double, int64_t> best_first;  // equal ones in their order
  for (int64_t i = 0; i < n; ++i)
    best_first.emplace(-static_cast<double*>(arrays.scores.data)[i], i);
  for (const auto& [score, row] : best_first) {
    size_t k = 0;
    while (k < kept.size() && !overlap(kept[k], row)) ++k;
    if (k == kept.size()) kept.push_back(row);
    keeper_of[row] = kept[k];
  }
  everywhere([&] {
    Owned<int64_t> keep({n}), keeper({n});
    Owned<double> merged({n, 4});
    arrays.keep = view("keep", keep), arrays.keeper = view("keeper", keeper);
    for (const bool merges : {false, true}) {
      const auto out = merges ? std::optional(view("merged", merged)) : std::nullopt;
      CHECK(Rows(keep.begin(), keep.begin() + api::nms(arrays, rule, masks, out)) == kept);
      for (int64_t row = 0; row < n; ++row) {  // any keeper will do but for merging
        const int64_t its = keeper[row], best = keeper_of[row];
        const bool is_one = best != row && keeper_of[its] == its && overlap(its, row);
        CHECK(its == best || (is_one && (masks || !merges)));
      }
    }
  });
}

/// Of boxes of the first kinds in turn.
template <class Real>
void check_boxes(int64_t n, int64_t n_kinds, const SuppressRule& rule, int64_t n_classes) {
  Random random(13);
  const auto real = [&](float low, float high) { return double{random.real(low, high)}; };
  Owned<Real> boxes({n, 4});
  Owned<double> scores({n});
  Owned<int64_t> classes({n});
  const double most = sizeof(Real) == 4 ? 3e38 : 1.6e308;
  for (int64_t i = 0; i < n; ++i) {
    scores[i] = static_cast<double>(random.integer(n) - n / 2);
    classes[i] = random.integer(n_classes) << 40;
    const double x = real(0, 999), y = real(0, 999), w = real(5, 40), h = real(5, 40);
    const double any = std::exp2(real(-25, 48)), at = any * real(-1, 1), pile = std::floor(x / 400);
    const double kinds[][4] = {{x, y, x + w, y + h},
                               {pile, y / 99, pile + w, y / 99 + h},
                               {at, at, at + any, at + any / 40 * h},  // of all size classes
                               {pile, 0, std::floor(w / 10), std::floor(h / 20)},  // flat, inverted
                               {-most, y, most, y + h},  // the side overflows, not its ends
                               {-most / w, -most / h, most / h, most / w}};
    for (int64_t k = 0; k < 4; ++k) boxes[4 * i + k] = static_cast<Real>(kinds[i % n_kinds][k]);
  }
  const BoxOverlap<Real> overlap{{boxes.begin()}, rule.metric, rule.threshold, rule.inclusive};
  api::NmsArrays arrays{view("boxes", boxes), view("scores", scores), {}, {}, {}, {}};
  arrays.classes = view("classes", classes);
  check_nms(arrays, rule, {}, [&](int64_t a, int64_t b) {
    return classes[a] == classes[b] && overlap(static_cast<int32_t>(a), static_cast<int32_t>(b));
  });
}

}  // namespace

TEST(paste, labels_are_those_of_the_core_at_every_pixel) {
  // widths about the 29 whose padded rows are read whole
  for (const Rows& size : {Rows{1, 1}, {28, 28}, {7, 29}, {1, 30}, {3, 200}}) {
    const auto masks = random_crops<float>({10, size[0], size[1]});
    for (const Rows& image : {Rows{66, 1030}, {1, 600}, {70, 1}, {0, 5}}) {
      for (const int style : {0, 1, 2}) {
        Given given = odd_boxes(view("masks", masks), 10, image, 10);
        given.parameters = {PasteStyle{style}, 0.5, 1};
        // a threshold that the last pixel of a box just reaches: no value may differ in a bit
        for (const int64_t i : {0, 1}) {
          for (const float value : plain_values(given.job(image), i)) {
            if (value > 0.01f && value < 1) given.parameters.threshold = double{value};
          }
          check_paste(given, image);
        }
      }
    }
  }
}

TEST(paste, crops_may_be_of_any_dtype_strides_and_sizes) {
  const auto masks = random_crops<float>({20, 9, 31});
  const auto half = random_crops<uint16_t>(masks.shape);
  const auto wide = random_crops<double>(masks.shape);
  const auto bools = random_crops<bool>(masks.shape);
  api::Array byte = view("masks", bools), turned = view("masks", masks);
  byte.dtype = "uint8";
  std::swap(turned.shape[1], turned.shape[2]), std::swap(turned.stride[1], turned.stride[2]);
  Owned<int64_t> start({20});
  Labels sizes({20, 2});  // the last crop has no values
  for (int32_t i = 0; i < 19; ++i) {
    sizes[2 * i] = i % 7, sizes[2 * i + 1] = 20 + i;
    start[i + 1] = start[i] + i % 7 * (20 + i);
  }
  const auto line = random_crops<float>({start[19]});
  for (const api::Array& crops :
       {view("masks", half), view("masks", wide), byte, turned, view("line", line)}) {
    for (const int style : {0, 1, 2}) {
      Given given = odd_boxes(crops, 20, {40, 90}, 20);
      if (crops.name == "line") given.table = {view("start", start), view("sizes", sizes)};
      given.parameters.style = PasteStyle{style};
      check_paste(given, {40, 90});
    }
  }
}

TEST(paste, batches_at_offsets_add_up_and_are_numbered_in_raster_order) {
  const auto masks = random_crops<float>({30, 8, 28});
  const Given one = odd_boxes(view("masks", masks), 30, {80, 130}, 60);
  Given two = odd_boxes(view("masks", masks), 30, {80, 130}, 60);
  two.parameters.offset = {-21, 1000};
  for (int64_t i = 0; i < 120; i += 2) two.boxes[i] -= 990;
  Labels expected({80, 130}), numbered({80, 130});
  plain_paste(one, expected);
  plain_paste(two, expected, 31);
  Rows rows;
  for (int64_t k = 0; k < 80 * 130; ++k) {
    const int32_t id = expected[k];
    if (id == 0 || std::count(expected.begin(), expected.end(), id) < 9) continue;
    const auto found = std::find(rows.begin(), rows.end(), id - 1);
    numbered[k] = static_cast<int32_t>(found - rows.begin()) + 1;
    if (found == rows.end()) rows.push_back(id - 1);
  }
  everywhere([&] {
    Labels labels({80, 130});
    Owned<int64_t> index({60});
    two.paste(labels, 31);  // the order does not matter
    one.paste(labels);
    CHECK(labels == expected);
    const PastedLabels found = api::number_pasted(view("labels", labels), 60, 9, view("i", index));
    CHECK(labels == numbered);
    CHECK(Rows(index.begin(), index.begin() + found.n_labels) == rows);
  });
}

TEST(paste, boxes_are_suppressed_by_the_sequential_rule) {
  for (int k = 0; k < 36; ++k) {
    const SuppressRule rule{OverlapMetric{k % 2}, k / 2 % 3 * 0.4, k % 5 < 2};
    check_boxes<float>(300, k / 6 + 1, rule, 1);
    check_boxes<double>(300, k / 6 + 1, rule, 2);
  }
  check_boxes<float>(9001, 2, {OverlapMetric::iou, 0.3, false}, 1);  // in several waves
  check_boxes<double>(5000, 2, {OverlapMetric::ios, 0.5, true}, 2);
}

TEST(paste, masks_are_counted_pixel_by_pixel) {
  const auto masks = random_crops<float>({30, 5, 29});
  const Given given = odd_boxes(view("masks", masks), 30, {66, 531}, 29);
  const api::NmsMasks pixels{given.masks, {}, given.parameters, {66, 531}};
  Labels tiles({30, 4});  // with them only what those of both cover counts
  const auto* const covered = reinterpret_cast<const PasteWindow*>(tiles.begin());
  std::vector<std::vector<float>> values;
  for (int32_t i = 0; i < 30; ++i) {
    const int32_t y = i % 2 * 20, x = i % 5 * 80, tile[] = {y, y + 46, x, x + 211};
    std::copy(tile, tile + 4, &tiles[4 * int64_t{i}]);
    values.push_back(plain_values(given.job({66, 531}), i));
  }
  api::NmsArrays arrays{view("boxes", given.boxes), view("scores", given.scores), {}, {}, {}, {}};
  for (int k = 0; k < 20; ++k) {
    if (k == 10) arrays.tiles = view("tiles", tiles);
    const SuppressRule rule{OverlapMetric{k % 2}, k % 10 * 0.05, false};
    check_nms(arrays, rule, pixels, [&](int64_t i, int64_t j) {
      const PasteWindow all{0, 66, 0, 531}, w = k < 10 ? all : common(covered[i], covered[j]);
      int64_t a = 0, b = 0, both = 0;
      for (int64_t y = w.y0; y < w.y1; ++y) {
        for (int64_t at = y * 531 + w.x0; at < y * 531 + w.x1; ++at) {
          const bool of_i = values[i][at] >= 0.5f, of_j = values[j][at] >= 0.5f;
          a += of_i, b += of_j, both += of_i && of_j;
        }
      }
      const int64_t whole = k % 2 == 0 ? a + b - both : std::min(a, b);
      return static_cast<double>(both) > rule.threshold * static_cast<double>(whole);
    });
  }
}

TEST(paste, fused_boxes_are_those_of_a_plain_loop) {
  Random random(16);
  Owned<double> boxes({400, 4}), scores({400}), fused({400, 4}), fused_scores({400});
  Owned<int64_t> group({400});
  Owned<int32_t> model({400});  // all of the first; this score asks for their number alone
  std::multimap<double, int64_t> best_first;
  const double weights[] = {1, 0.5, 2};
  for (int64_t i = 0; i < 400; ++i) {
    const double unit = i % 9 == 0 ? 1e-7 : (i % 10 == 0 ? 1e30 : 1);
    for (int k = 0; k < 4; ++k) boxes[4 * i + k] = (k / 2 * 9 + double{random.real(0, 9)}) * unit;
    scores[i] = static_cast<double>(random.integer(50)) / 50;
    best_first.emplace(-scores[i], i);
  }
  // what has grown of the boxes, at the row that each began with
  Owned<double> grown = boxes.copy(), total({400}), size({400});
  Owned<float> sum({400, 4});
  Rows begun, first_of(400);
  for (const auto& [score, row] : best_first) {
    const double* const b = &boxes[4 * row];
    int64_t found = row;
    double best = 0.4;
    for (const int64_t first : begun) {
      const double* const a = &grown[4 * first];
      const double w = std::min(a[2], b[2]) - std::max(a[0], b[0]);
      const double h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
      const double both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]);
      const double iou = w * h / (both - w * h);
      if (w > 0 && h > 0 && iou > best) best = iou, found = first;
    }
    if (found == row) begun.push_back(row);
    first_of[row] = found;
    total[found] += scores[row], ++size[found];
    for (int64_t k = 4 * found; k < 4 * found + 4; ++k) {  // rounded to float32 after each step
      sum[k] = static_cast<float>(double{sum[k]} + scores[row] * b[k % 4]);
      if (size[found] == 1 || total[found] == 0) continue;
      grown[k] = double{static_cast<float>(double{sum[k]} / total[found])};
    }
  }
  const int64_t n = cpu::fuse_boxes({boxes.begin(), scores.begin(), model.begin(), nullptr, 400,
                                     weights, 3, 0.4, FusedScore::avg, false},
                                    {fused.begin(), fused_scores.begin(), nullptr, group.begin()});
  CHECK(n == static_cast<int64_t>(begun.size()));
  CHECK(std::is_sorted(fused_scores.begin(), fused_scores.begin() + n, std::greater<>()));
  for (int64_t row = 0; row < 400; ++row) {
    const int64_t k = group[row], first = first_of[row];
    const double mean = total[first] / size[first], rounded = double{static_cast<float>(mean)};
    CHECK(fused_scores[k] == (size[first] > 1 ? rounded : mean) * std::min(size[first], 3.0) / 3.5);
    CHECK(group[first] == k && std::equal(&grown[4 * first], &grown[4 * first] + 4, &fused[4 * k]));
  }
}

TEST(paste, bad_input_throws_and_nothing_is_pasted) {
  for (const float v : {1.5f, -0.01f, NAN, INFINITY}) {
    for (int what = 0; what < 6; ++what) {
      auto masks = random_crops<float>({20, 3, 5});
      Given bad = odd_boxes(view("masks", masks), what == 0 ? 19 : 20, {9, 8}, what == 1 ? 19 : 20);
      if (what == 2) masks[299] = v;
      if (what == 3) bad.boxes[79] = v * INFINITY;
      if (what == 4) bad.scores[20] = double{v * INFINITY};
      if (what == 5) bad.parameters.threshold = v < 0 ? 0 : double{v};
      Labels labels({9, 8});
      everywhere([&] { CHECK_THROWS(bad.paste(labels), std::invalid_argument); });
      CHECK(labels == Labels({9, 8}));
    }
  }
}
