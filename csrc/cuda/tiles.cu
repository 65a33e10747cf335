#include "cuda/tiles.h"

#include "cuda/exec.cuh"

namespace cellpost::cuda {

int64_t stitch(const Place& place, const TileBlend& job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles) {
  return run_at(place, [&](Exec& exec) { return cellpost::stitch(exec, job, axes, tiles); });
}

}  // namespace cellpost::cuda
