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

/// Makes the rows that `job` asks for; its tables are given in host memory. The linear index of
/// the first NaN among them, or -1.
template <class Exec>
int64_t stitch(Exec& exec, TileBlend job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles) {
  std::vector<int64_t> places;
  std::vector<float> weights;
  for (const AxisTables& axis : axes) {
    for (const auto* table : {&axis.start, &axis.begin, &axis.end}) {
      places.insert(places.end(), table->begin(), table->end());
    }
    weights.insert(weights.end(), axis.weight.begin(), axis.weight.end());
  }
  auto all_places = exec.copy_in(places.data(), static_cast<int64_t>(places.size()));
  auto all_weights = exec.copy_in(weights.data(), static_cast<int64_t>(weights.size()));
  auto all_tiles = exec.copy_in(tiles.data(), static_cast<int64_t>(tiles.size()));
  const int64_t* place = all_places.data();
  const float* weight = all_weights.data();
  for (int k = 0; k < 3; ++k) {
    const int64_t n = static_cast<int64_t>(axes[k].start.size());
    const int64_t side = job.axis[k].side;
    job.axis[k] = {n, side, place, place + n, place + 2 * n, weight};
    place += 3 * n;
    weight += axes[k].weight.size();
  }
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
