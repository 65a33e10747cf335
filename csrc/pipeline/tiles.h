// Blending of tiles, written once for both devices; Exec is described in pipeline/labels.h. Its own
// kernel for this family: blend(job), with all tables where it runs.
#pragma once

#include <algorithm>
#include <vector>

#include "core/tiles.h"

namespace cellpost {

/// One axis of a grid of tiles, on the host.
struct AxisTables {
  std::vector<int64_t> start, begin, end;
  std::vector<float> weight;
};

/// Tables of the axes where the work runs; `axis` refers to them, and keeps its sides.
template <class Exec>
class PlacedAxes {
 public:
  PlacedAxes(Exec& exec, const AxisTables (&axes)[3], TileAxis (&axis)[3]) {
    std::vector<int64_t> places;
    std::vector<float> weights;
    for (const AxisTables& tables : axes) {
      for (const auto* table : {&tables.start, &tables.begin, &tables.end}) {
        places.insert(places.end(), table->begin(), table->end());
      }
      weights.insert(weights.end(), tables.weight.begin(), tables.weight.end());
    }
    places_ = exec.copy_in(places.data(), static_cast<int64_t>(places.size()));
    weights_ = exec.copy_in(weights.data(), static_cast<int64_t>(weights.size()));
    const int64_t* place = places_.data();
    const float* weight = weights_.data();
    for (int k = 0; k < 3; ++k) {
      const auto n = static_cast<int64_t>(axes[k].start.size());
      axis[k] = {n, axis[k].side, place, place + n, place + 2 * n, weight};
      place += 3 * n;
      weight += axes[k].weight.size();
    }
  }

 private:
  typename Exec::template Buffer<int64_t> places_;
  typename Exec::template Buffer<float> weights_;
};

/// Makes the rows that `job` asks for; its tables are given in host memory. The linear index of
/// the first NaN among them, or -1.
template <class Exec>
int64_t stitch(Exec& exec, TileBlend job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles) {
  const PlacedAxes<Exec> placed(exec, axes, job.axis);
  auto all_tiles = exec.copy_in(tiles.data(), static_cast<int64_t>(tiles.size()));
  job.tiles = all_tiles.data();
  constexpr int64_t kNone = INT64_MAX;
  auto first_nan = exec.template alloc<int64_t>(1);
  exec.fill(first_nan.data(), 1, kNone);
  job.first_nan = first_nan.data();
  exec.blend(job);
  const int64_t found = exec.read(first_nan.data());
  return found == kNone ? -1 : found;
}

}  // namespace cellpost
