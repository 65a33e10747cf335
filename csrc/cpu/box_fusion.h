// Weighted boxes fusion (Solovyev et al. 2021), in the arithmetic of the package ensemble-boxes.
// A sequence of decisions each of which hangs on the one before: one CPU thread, on any device's
// boxes.
#pragma once

#include "core/box_cells.h"

namespace cellpost {

enum class FusedScore : int { avg = 0, max = 1, box_and_model_avg = 2, absent_model_aware_avg = 3 };

struct BoxesToFuse {
  const double* boxes;     ///< (n, 4), of positive area
  const double* scores;    ///< times the weight of the model
  const int32_t* model;    ///< that each box is of
  const int64_t* classes;  ///< or null: only boxes of one class are fused
  int64_t n;
  const double* weights;  ///< of the models
  int64_t n_models;
  double iou_threshold;
  FusedScore score;
  bool allows_overflow;
};

/// Room for n rows each.
struct FusedBoxes {
  double *boxes, *scores;
  int64_t* classes;  ///< if there are any
  int64_t* group;    ///< of each row the row of the result that it is part of
};

namespace cpu {
/// Returns the number of boxes, best first.
int64_t fuse_boxes(const BoxesToFuse& given, const FusedBoxes& out);
}  // namespace cpu

}  // namespace cellpost
