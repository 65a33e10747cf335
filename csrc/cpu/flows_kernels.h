// The hot loops of the flows family, compiled once for each instruction set and chosen at run time.
// All give the same bits.
#pragma once

#include "cpu/block.h"
#include "pipeline/flows.h"

namespace cellpost::cpu {

struct TraceKernels {
  /// [N - 2][sampling]: follows the marked points of a block; returns their number.
  int64_t (*trace[2][2])(const Trace&, const TraceOutput&, const Block&);
};

struct DiffusionKernels {
  void (*diffuse_2d_f64)(const HeatJob<2, double>&, int64_t begin, int64_t end);
  void (*diffuse_2d_f32)(const HeatJob<2, float>&, int64_t begin, int64_t end);
  void (*diffuse_3d_f64)(const HeatJob<3, double>&, int64_t begin, int64_t end);
  void (*diffuse_3d_f32)(const HeatJob<3, float>&, int64_t begin, int64_t end);

  void diffuse(const HeatJob<2, double>& j, int64_t b, int64_t e) const { diffuse_2d_f64(j, b, e); }
  void diffuse(const HeatJob<2, float>& j, int64_t b, int64_t e) const { diffuse_2d_f32(j, b, e); }
  void diffuse(const HeatJob<3, double>& j, int64_t b, int64_t e) const { diffuse_3d_f64(j, b, e); }
  void diffuse(const HeatJob<3, float>& j, int64_t b, int64_t e) const { diffuse_3d_f32(j, b, e); }
};

}  // namespace cellpost::cpu
