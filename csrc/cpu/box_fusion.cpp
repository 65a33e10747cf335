#include "cpu/box_fusion.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace cellpost::cpu {
namespace {

/// Boxes taken for one. The sums are rounded to float32 after each box, as the package does.
struct Cluster {
  double box[4];
  float sum[4];
  double score_sum = 0, weight_sum = 0, largest = 0;
  int64_t n = 0, first = -1, last = -1;  ///< members, and the ends of their list
  int64_t class_id = 0;
  int size_class = 0;
  int64_t bucket = 0;
};

/// Clusters by the cells of the table of core/box_cells.h; they move as they grow.
class Clusters {
 public:
  explicit Clusters(const BoxesToFuse& given) : given_(given), next_(size(given.n), -1) {
    size_t n_buckets = 64;
    while (n_buckets < 2 * size(given.n)) n_buckets *= 2;
    buckets_.resize(n_buckets);
  }

  /// The cluster whose box overlaps the most with the row's, the earliest of equals; -1 if none
  /// does by more than the threshold.
  int64_t find(int64_t row) const {
    const double* const box = given_.boxes + 4 * row;
    Best best{-1, given_.iou_threshold};
    const int own = class_of(box);
    for (int k = 0; k < kSizeClasses; ++k) {
      if (n_of_class_[k] == 0 || !can_overlap(k, own, given_.iou_threshold)) continue;
      const CellRange near(box[0], box[1], box[2], box[3], k);
      if (near.n_cells() > static_cast<double>(clusters_.size())) {
        for (size_t i = 0; i < clusters_.size(); ++i) look(static_cast<int64_t>(i), row, best);
        break;  // those of all classes
      }
      for (int64_t y = near.row0; y <= near.row1; ++y) {
        for (int64_t x = near.col0; x <= near.col1; ++x) {
          for (const int64_t i : buckets_[bucket(k, y, x)]) look(i, row, best);
        }
      }
    }
    return best.cluster;
  }

  void start(int64_t row) {
    Cluster cluster;
    std::copy_n(given_.boxes + 4 * row, 4, cluster.box);
    std::fill_n(cluster.sum, 4, 0.0f);
    cluster.class_id = class_id(row);
    clusters_.push_back(cluster);
    const auto i = static_cast<int64_t>(clusters_.size()) - 1;
    count(clusters_.back(), row);
    enter(i);
  }

  void add(int64_t i, int64_t row) {
    Cluster& cluster = clusters_[size(i)];
    count(cluster, row);
    if (!(cluster.score_sum > 0)) return;  // nothing to weight by: the first box stays
    for (int k = 0; k < 4; ++k) {
      cluster.box[k] = static_cast<double>(
          static_cast<float>(static_cast<double>(cluster.sum[k]) / cluster.score_sum));
    }
    auto& old = buckets_[size(cluster.bucket)];
    old.erase(std::find(old.begin(), old.end(), i));
    --n_of_class_[cluster.size_class];
    enter(i);
  }

  double score(const Cluster& c, std::vector<char>& seen) const {
    const auto n = static_cast<double>(c.n);
    const auto rounded = [&](double v) {
      return c.n == 1 ? v : static_cast<double>(static_cast<float>(v));
    };
    const bool is_max = given_.score == FusedScore::max;
    const double score = rounded(is_max ? c.largest : c.score_sum / n);
    const double weight = rounded(c.weight_sum);
    const double* const w = given_.weights;
    const double all = std::accumulate(w, w + given_.n_models, 0.0);
    std::fill(seen.begin(), seen.end(), 0);
    for (int64_t row = c.first; row >= 0; row = next_[size(row)]) {
      seen[static_cast<size_t>(given_.model[row])] = 1;
    }
    double in = 0, absent = 0;
    for (size_t m = 0; m < seen.size(); ++m) (seen[m] ? in : absent) += w[m];
    switch (given_.score) {
      case FusedScore::max:
        return score / *std::max_element(w, w + given_.n_models);
      case FusedScore::box_and_model_avg:
        return score * n / weight * in / all;
      case FusedScore::absent_model_aware_avg:
        return score * n / (weight + absent);
      default:
        return score *
               (given_.allows_overflow ? n : std::min(n, static_cast<double>(given_.n_models))) /
               all;
    }
  }

  const std::vector<Cluster>& all() const { return clusters_; }
  int64_t next(int64_t row) const { return next_[size(row)]; }

 private:
  struct Best {
    int64_t cluster;
    double iou;
  };

  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  static int class_of(const double* box) {
    return size_class(std::max(box[2] - box[0], box[3] - box[1]));
  }
  int64_t class_id(int64_t row) const { return given_.classes ? given_.classes[row] : 0; }
  size_t bucket(int of_class, int64_t y, int64_t x) const {
    return size(static_cast<int64_t>(cell_hash(of_class, y, x) & (buckets_.size() - 1)));
  }

  void look(int64_t i, int64_t row, Best& best) const {
    const Cluster& cluster = clusters_[size(i)];
    if (cluster.class_id != class_id(row)) return;
    const double *const a = cluster.box, *const b = given_.boxes + 4 * row;
    const double w = std::min(a[2], b[2]) - std::max(a[0], b[0]);
    const double h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
    if (!(w > 0 && h > 0)) return;
    const double inter = w * h;
    const double iou =
        inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter);
    if (iou > best.iou || (iou == best.iou && best.cluster >= 0 && i < best.cluster)) {
      best = {i, iou};
    }
  }

  void count(Cluster& cluster, int64_t row) {
    const double score = given_.scores[row];
    for (int k = 0; k < 4; ++k) {
      cluster.sum[k] = static_cast<float>(static_cast<double>(cluster.sum[k]) +
                                          score * given_.boxes[4 * row + k]);
    }
    cluster.score_sum += score;
    cluster.weight_sum += given_.weights[given_.model[row]];
    cluster.largest = std::max(cluster.largest, score);
    ++cluster.n;
    (cluster.last < 0 ? cluster.first : next_[size(cluster.last)]) = row;
    cluster.last = row;
  }

  void enter(int64_t i) {
    Cluster& cluster = clusters_[size(i)];
    cluster.size_class = class_of(cluster.box);
    cluster.bucket =
        static_cast<int64_t>(bucket(cluster.size_class, cell_at(cluster.box[1], cluster.size_class),
                                    cell_at(cluster.box[0], cluster.size_class)));
    buckets_[size(cluster.bucket)].push_back(i);
    ++n_of_class_[cluster.size_class];
  }

  const BoxesToFuse& given_;
  std::vector<Cluster> clusters_;
  std::vector<int64_t> next_;  ///< row after each in its cluster
  std::vector<std::vector<int64_t>> buckets_;
  int64_t n_of_class_[kSizeClasses] = {};
};

/// Rows from the highest score down, equal ones in their order.
std::vector<int64_t> best_first(const double* scores, int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  return order;
}

}  // namespace

int64_t fuse_boxes(const BoxesToFuse& given, const FusedBoxes& out) {
  Clusters clusters(given);
  for (const int64_t row : best_first(given.scores, given.n)) {
    const int64_t found = clusters.find(row);
    if (found < 0) {
      clusters.start(row);
    } else {
      clusters.add(found, row);
    }
  }
  std::vector<double> scores;
  std::vector<char> seen(static_cast<size_t>(given.n_models));
  for (const Cluster& cluster : clusters.all()) scores.push_back(clusters.score(cluster, seen));
  const auto n = static_cast<int64_t>(scores.size());
  const auto order = best_first(scores.data(), n);
  for (int64_t k = 0; k < n; ++k) {
    const auto i = static_cast<size_t>(order[static_cast<size_t>(k)]);
    const Cluster& cluster = clusters.all()[i];
    std::copy_n(cluster.box, 4, out.boxes + 4 * k);
    out.scores[k] = scores[i];
    if (out.classes != nullptr) out.classes[k] = cluster.class_id;
    for (int64_t row = cluster.first; row >= 0; row = clusters.next(row)) out.group[row] = k;
  }
  return n;
}

}  // namespace cellpost::cpu
