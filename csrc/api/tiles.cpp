#include "api/tiles.h"

#include <numeric>

#include "api/check.h"
#include "cpu/tiles.h"
#include "cuda/tiles.h"

namespace cellpost::api {
namespace {

DType float_dtype(const Array& a) {
  if (a.dtype == "float32") return DType::f32;
  if (a.dtype == "float16") return DType::f16;
  if (a.dtype == "bfloat16") return DType::bf16;
  if (a.dtype == "float64") return DType::f64;
  reject_dtype(a.name, "float16, bfloat16, float32 or float64", a.dtype);
}

void check_axis(const AxisTables& axis, int64_t side) {
  const size_t n = axis.start.size();
  if (axis.begin.size() != n || axis.end.size() != n || side < 1) {
    reject("axes", "a start, begin and end for each tile", "lists of other lengths");
  }
  for (size_t k = 0; k < n; ++k) {
    const bool inside = axis.start[k] <= axis.begin[k] && axis.end[k] <= axis.start[k] + side;
    const bool ascends =
        k == 0 || (axis.begin[k - 1] <= axis.begin[k] && axis.end[k - 1] <= axis.end[k] &&
                   axis.begin[k] <= axis.end[k - 1]);
    if (!inside || !ascends) reject("axes", "ascending tiles without gaps", "others");
  }
}

}  // namespace

int64_t stitch(const std::vector<Array>& tiles, const Array& out, const TileTables& tables,
               int64_t first_layer, int64_t first_row) {
  const size_t ndim = tables.axes.size();
  if ((ndim != 2 && ndim != 3) || tables.tile.size() != ndim || out.shape.size() != ndim + 1) {
    reject(out.name, "a channel axis and the 2 or 3 of the grid", "shape " + text(out.shape));
  }
  for (const int64_t n : out.shape) {
    if (n == 0) return -1;
  }
  // Axes 0, 1, 2 of core/tiles.h: an image has a middle axis of one pixel.
  const AxisTables one{{0}, {0}, {1}, {1.0f}};
  const bool flat = ndim == 2;
  const AxisTables axes[3] = {tables.axes[0], flat ? one : tables.axes[1], tables.axes[ndim - 1]};
  const int64_t sides[3] = {tables.tile[0], flat ? 1 : tables.tile[1], tables.tile[ndim - 1]};
  TileBlend job{};
  for (size_t k = 0; k < 3; ++k) {
    job.axis[k].side = sides[k];
    check_axis(axes[k], sides[k]);
    if (!tables.window && static_cast<int64_t>(axes[k].weight.size()) != sides[k]) {
      reject("weights", std::to_string(sides[k]) + " of them",
             std::to_string(axes[k].weight.size()));
    }
  }
  job.channels = out.shape[0];
  job.size[0] = out.shape[1];
  job.size[1] = flat ? 1 : out.shape[2];
  job.size[2] = out.shape[ndim];
  job.first_row = first_row;
  job.first_layer = first_layer;
  job.floor = static_cast<float>(tables.floor);

  std::vector<int64_t> expected{job.channels};
  expected.insert(expected.end(), tables.tile.begin(), tables.tile.end());
  std::vector<const void*> data;
  for (const Array& tile : tiles) {
    data.push_back(output(tile, tiles[0].dtype.c_str(), expected));
    same_place(out, tile);
  }
  const size_t n_each = axes[1].start.size() * axes[2].start.size();  // of a layer
  if (tiles.empty() || n_each == 0 || tiles.size() % n_each != 0) {
    reject("tiles", "the " + std::to_string(n_each) + " tiles of each place along the first axis",
           std::to_string(tiles.size()) + " in all");
  }
  const auto covered = [](const AxisTables& axis, int64_t begin, int64_t end) {
    return !axis.start.empty() && axis.begin.front() <= begin && axis.end.back() >= end;
  };
  const AxisTables& down = axes[0];
  const auto last_layer = first_layer + static_cast<int64_t>(tiles.size() / n_each) - 1;
  const int64_t end_row = first_row + job.size[0];
  if (first_layer < 0 || last_layer >= static_cast<int64_t>(down.start.size()) ||
      !covered(down, first_row, end_row) || !covered(axes[1], 0, job.size[1]) ||
      !covered(axes[2], 0, job.size[2])) {
    reject("tiles", "tiles that cover the rows of out", "others");
  }
  for (size_t k = 0; k < down.start.size(); ++k) {
    const auto place = static_cast<int64_t>(k);
    const bool is_needed = down.begin[k] < end_row && down.end[k] > first_row;
    if (is_needed && (place < first_layer || place > last_layer)) {
      reject("tiles", "all tiles that cover the rows of out",
             "not those of layer " + std::to_string(k));
    }
  }
  job.dtype = float_dtype(tiles[0]);
  job.out_dtype = float_dtype(out);
  if ((job.dtype == DType::f64) != (job.out_dtype == DType::f64)) {
    reject_dtype(out.name, "float64 for tiles of float64 alone", out.dtype);
  }
  if (out.stride[ndim] != 1 && out.shape[ndim] > 1) {
    reject(out.name, "lines that are contiguous", "strides");
  }
  job.out = out.data;
  job.stride[0] = out.stride[0];
  job.stride[1] = out.stride[1];
  job.stride[2] = flat ? 0 : out.stride[2];
  if (tables.window) {
    job.window = static_cast<const float*>(output(*tables.window, "float32", tables.tile));
    same_place(out, *tables.window);
  }
  return out.place.cuda ? cuda::stitch(out.place, job, axes, data) : cpu::stitch(job, axes, data);
}

}  // namespace cellpost::api
