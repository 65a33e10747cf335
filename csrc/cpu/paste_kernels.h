// The hot loops of the paste family, compiled once for each instruction set and chosen at run time.
// All give the same bits.
#pragma once

#include "core/nms_overlap.h"
#include "core/paste.h"

namespace cellpost::cpu {

/// What a thread keeps from one instance to the next.
struct PasteScratch {
  static constexpr int64_t kColumns = 512;  ///< that are worked on at a time
  alignas(64) int32_t index[kColumns];
  alignas(64) float weight[2][kColumns];
};

/// The part of an instance's window that is worked on at once.
struct PastePart {
  int64_t instance;
  PasteWindow window;
  int32_t crop_begin, crop_end;  ///< rows of the padded crop that its taps are in

  PastePart(const Paste& job, int64_t i, const PasteWindow& part) : instance(i), window(part) {
    const PasteAxis down = job.y_axis(i);
    const int32_t n = down.n, first = down.tap(window.y0 - job.offset[0]).index,
                  last = down.tap(window.y1 - 1 - job.offset[0]).index;
    // Taps go down the crop with the pixels, but that those outside of it all have the last place.
    const bool outside = first > n || last > n;
    crop_begin = first > n ? 0 : first;
    crop_end = outside ? n + 2 : last + 2;
  }
};

struct PasteKernels {
  /// Rows of the padded crop of up to so many values are read whole, beyond their end.
  static constexpr int64_t kShort = 32;
  /// `crop` has room for the rows of the padded crop, pitch(job, instance) values in each, and
  /// kShort + 1 more.
  void (*paste)(const Paste& job, const PastePart& part, PasteScratch& scratch, float* crop);
  /// Writes the bits of an instance whose whole window the part is.
  void (*fill_bits)(const Paste& job, const PastePart& part, PasteScratch& scratch, float* crop,
                    const InstanceBits& bits);
  static int64_t pitch(const Paste& job, int64_t instance) {
    return int64_t{job.crops.width_of(instance)} + 3;
  }
  static int64_t n_values(const Paste& job, const PastePart& part) {
    return (part.crop_end - part.crop_begin) * pitch(job, part.instance) + kShort + 1;
  }
  /// Whether all `n` values that follow each other are from 0 to 1.
  bool (*are_shares)(const void* values, DType dtype, int64_t n);
};

}  // namespace cellpost::cpu
