#include "cpu/tiles.h"

#include "cpu/exec.h"

namespace cellpost::cpu {

int64_t stitch(const TileBlend& job, const AxisTables (&axes)[3],
               const std::vector<const void*>& tiles) {
  Exec exec;
  return cellpost::stitch(exec, job, axes, tiles);
}

}  // namespace cellpost::cpu
