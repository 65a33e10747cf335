// The hot loops of the watershed family, compiled once for each instruction set and chosen at run
// time. All give the same bits.
#pragma once

#include "cpu/block.h"
#include "pipeline/watershed.h"

namespace cellpost::cpu {

struct WatershedKernels {
  /// Elements of the scratch that a block takes.
  static constexpr int64_t kScratch = (SobelKernels::kMostSize + 2) * (kBlockColumns + 96);

  /// Smallest and largest derivative of H and of V in a block.
  void (*gradient_range)(const HoverGradient&, const Block&, double* scratch, Range (&ranges)[2]);
  /// The derivatives at all pixels of a block, H's plane before V's.
  void (*write_gradients)(const HoverGradient&, const Block&, double* scratch, double* out);
  /// Border at all pixels of a block.
  void (*find_border)(const HoverGradient&, const Rescale (&rescale)[2], const Block&,
                      double* scratch, float* border);
};

}  // namespace cellpost::cpu
