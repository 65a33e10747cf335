#include "api/nms.h"

#include <cmath>

#include "api/check.h"
#include "cpu/nms.h"
#include "cuda/nms.h"

namespace cellpost::api {
namespace {

template <class T>
T* column(const NmsArrays& all, const Array& array, const char* dtype,
          const std::vector<int64_t>& shape) {
  same_place(all.boxes, array);
  return static_cast<T*>(output(array, dtype, shape));
}

}  // namespace

int64_t nms(const NmsArrays& arrays, const SuppressRule& rule, const std::optional<NmsMasks>& masks,
            const std::optional<Array>& merged) {
  const Array& boxes = arrays.boxes;
  const int64_t n = boxes.shape.empty() ? 0 : boxes.shape[0];
  if (boxes.shape != std::vector<int64_t>{n, 4}) {
    reject(boxes.name, "shape (N, 4)", "shape " + text(boxes.shape));
  }
  if (n >= INT32_MAX) reject(boxes.name, "fewer than 2^31 rows", std::to_string(n));
  if (!(rule.threshold >= 0.0 && rule.threshold <= 1.0)) {
    reject("iou_threshold", "a number from 0 to 1", std::to_string(rule.threshold));
  }
  Candidates given{};
  given.boxes = float_view(boxes, true);
  given.n = n;
  given.scores = column<double>(arrays, arrays.scores, "float64", {n});
  if (arrays.classes) given.classes = column<int64_t>(arrays, *arrays.classes, "int64", {n});
  if (arrays.tiles) {
    given.tiles = reinterpret_cast<const PasteWindow*>(
        column<int32_t>(arrays, *arrays.tiles, "int32", {n, 4}));
  }
  const Suppressed out{column<int64_t>(arrays, arrays.keep, "int64", {n}),
                       column<int64_t>(arrays, arrays.keeper, "int64", {n})};
  double* const grown = merged ? column<double>(arrays, *merged, "float64", {n, 4}) : nullptr;
  const bool is_wide = boxes.dtype == "float64", on_cuda = boxes.place.cuda;
  NmsResult result;
  if (masks) {
    const Paste job = paste_job(masks->masks, masks->table, boxes, masks->parameters,
                                {1, masks->shape[0], masks->shape[1], 2});
    same_place(boxes, masks->masks);
    result = on_cuda ? cuda::mask_nms(boxes.place, job, given, rule, out)
                     : cpu::mask_nms(job, given, rule, out);
  } else if (given.tiles != nullptr) {
    result =
        on_cuda ? cuda::tile_nms(boxes.place, given, rule, out) : cpu::tile_nms(given, rule, out);
  } else {
    result = on_cuda ? cuda::nms(boxes.place, given, rule, is_wide, out, grown)
                     : cpu::nms(given, rule, is_wide, out, grown);
  }
  if (result.n_too_many > 0) {
    reject(boxes.name, "at most 2^37 pixels in all boxes", std::to_string(result.n_too_many));
  }
  reject_rows(boxes.name, "masks", result.bad_box, result.bad_score, result.bad_value);
  return result.n_kept;
}

}  // namespace cellpost::api
