#include "api/tiles.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style | py::array::forcecast>;
/// Start, begin and end of each tile along an axis, and weights of a tile's pixels.
using Axis = std::tuple<Dense<int64_t>, Dense<int64_t>, Dense<int64_t>, Dense<float>>;

template <class T>
std::vector<T> values(const Dense<T>& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

}  // namespace

void register_tiles(py::module_& m) {
  m.def(
      "stitch",
      [](const std::vector<py::object>& tiles, py::handle out, intptr_t stream,
         const std::vector<Axis>& axes, const std::vector<int64_t>& tile,
         const std::optional<py::object>& window, double floor, int64_t first_layer,
         int64_t first_row) {
        std::vector<HeldArray> held;
        std::vector<api::Array> given;
        for (const py::object& one : tiles) {
          held.emplace_back(one, "tiles", stream);
          given.push_back(held.back().get());
        }
        const HeldArray map(out, "out", stream);
        api::TileTables tables;
        for (const auto& [start, begin, end, weight] : axes) {
          tables.axes.push_back({values(start), values(begin), values(end), values(weight)});
        }
        tables.tile = tile;
        tables.floor = floor;
        std::optional<HeldArray> weights;
        if (window) tables.window = weights.emplace(*window, "window", stream).get();
        return without_gil(
            [&] { return api::stitch(given, map.get(), tables, first_layer, first_row); });
      },
      py::arg("tiles"), py::arg("out"), py::arg("stream"), py::kw_only(), py::arg("axes"),
      py::arg("tile"), py::arg("window"), py::arg("floor"), py::arg("first_layer"),
      py::arg("first_row"));
}

}  // namespace cellpost::bindings
