// The two hot loops of the flows family, compiled once for each instruction set and chosen at run
// time. All give the same bits.
#pragma once

#include <string>
#include <vector>

#include "pipeline/flows.h"

namespace cellpost::cpu {

/// Half-open range of rows (z and y together) and columns of the window.
struct Block {
  int64_t row_begin, row_end, col_begin, col_end;
};

struct Kernels {
  const char* level;
  /// [N - 2][sampling]: follows the marked points of a block; returns their number.
  int64_t (*trace[2][2])(const Trace&, const TraceOutput&, const Block&);
  void (*diffuse_2d_f64)(const HeatJob<2, double>&, int64_t begin, int64_t end);
  void (*diffuse_2d_f32)(const HeatJob<2, float>&, int64_t begin, int64_t end);
  void (*diffuse_3d_f64)(const HeatJob<3, double>&, int64_t begin, int64_t end);
  void (*diffuse_3d_f32)(const HeatJob<3, float>&, int64_t begin, int64_t end);

  void diffuse(const HeatJob<2, double>& j, int64_t b, int64_t e) const { diffuse_2d_f64(j, b, e); }
  void diffuse(const HeatJob<2, float>& j, int64_t b, int64_t e) const { diffuse_2d_f32(j, b, e); }
  void diffuse(const HeatJob<3, double>& j, int64_t b, int64_t e) const { diffuse_3d_f64(j, b, e); }
  void diffuse(const HeatJob<3, float>& j, int64_t b, int64_t e) const { diffuse_3d_f32(j, b, e); }
};

namespace baseline {
Kernels kernels();
}
namespace avx2 {
Kernels kernels();
}
namespace avx512 {
Kernels kernels();
}

/// The kernels in use: those of the highest level this CPU has, or of the level that was asked for.
const Kernels& kernels();
/// Levels that this build and this CPU have, lowest first.
std::vector<std::string> levels();
/// An empty name asks for the highest. Throws std::invalid_argument for one that is not there.
void set_level(const std::string& name);

}  // namespace cellpost::cpu
