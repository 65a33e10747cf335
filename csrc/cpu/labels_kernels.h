// The hot loops over label images, compiled once for each instruction set and chosen at run time.
// All give the same bits.
#pragma once

#include "core/host_device.h"

namespace cellpost::cpu {

struct LabelKernels {
  /// Bits of the places in [0, n) whose label is not that of the place before (of the first: not
  /// 0). `bits` has (n + 63) / 64 words.
  void (*find_changes)(const int32_t* labels, int64_t n, uint64_t* bits);
  /// labels[i] = map[labels[i]] where that is not 0.
  void (*apply_map)(const int32_t* map, int32_t* labels, int64_t n);
};

}  // namespace cellpost::cpu
