#include "api/overlaps.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "arrays.h"

#include "register.h"
#include "results.h"

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

using Numbers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
/// Start of each tile along an axis, begin and end of its core.
using Axis = std::tuple<Numbers, Numbers, Numbers>;

std::vector<int64_t> values(const Numbers& array) {
  return std::vector<int64_t>(array.data(), array.data() + array.size());
}

py::array_t<int64_t> to_numpy(const std::vector<int64_t>& list) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(list.size()), list.data());
}

std::pair<py::array_t<int64_t>, py::array_t<int64_t>> to_numpy(const PairCounts& found) {
  return {to_numpy(found.keys), to_numpy(found.counts)};
}

/// Some arrays, kept alive.
struct HeldTiles {
  std::vector<HeldArray> held;
  std::vector<api::Array> given;

  HeldTiles(const std::vector<py::object>& tiles, intptr_t stream) {
    for (const py::object& tile : tiles) {
      held.emplace_back(tile, "tiles", stream);
      given.push_back(held.back().get());
    }
  }
};

}  // namespace

void register_overlaps(py::module_& m) {
  m.def(
      "overlap_counts",
      [](py::handle a, py::handle b, intptr_t stream) {
        const HeldArray first(a, "a", stream), second(b, "b", stream);
        return to_numpy(
            without_gil([&] { return api::overlap_counts(first.get(), second.get()); }));
      },
      py::arg("a"), py::arg("b"), py::arg("stream"));
  m.def(
      "tile_overlaps",
      [](const std::vector<py::object>& tiles, intptr_t stream, const Numbers& first,
         const Numbers& pairs) {
        const HeldTiles all(tiles, stream);
        if (pairs.ndim() != 2 || pairs.shape(1) != 11) {
          throw py::value_error("pairs: expected shape (n, 11); got another");
        }
        std::vector<TilePair> regions(static_cast<size_t>(pairs.shape(0)));
        const int64_t* p = pairs.data();
        for (TilePair& region : regions) {
          region.tile_a = p[0];
          region.tile_b = p[1];
          for (int k = 0; k < 3; ++k) {
            region.begin_a[k] = p[2 + k];
            region.begin_b[k] = p[5 + k];
            region.size[k] = p[8 + k];
          }
          p += 11;
        }
        return to_numpy(without_gil(
            [&, at = values(first)] { return api::tile_overlaps(all.given, at, regions); }));
      },
      py::arg("tiles"), py::arg("stream"), py::kw_only(), py::arg("first"), py::arg("pairs"));
  m.def(
      "compose_tiles",
      [](const std::vector<py::object>& tiles, py::handle out, intptr_t stream,
         const Numbers& first, const std::vector<Axis>& axes,
         const py::array_t<int32_t, py::array::c_style | py::array::forcecast>& map) {
        const HeldTiles all(tiles, stream);
        const HeldArray labels(out, "out", stream);
        std::vector<AxisTables> tables;
        for (const auto& [start, begin, end] : axes) {
          tables.push_back({values(start), values(begin), values(end), {}});
        }
        const std::vector<int32_t> numbers(map.data(), map.data() + map.size());
        without_gil([&, at = values(first)] {
          api::compose_tiles(all.given, at, tables, numbers, labels.get());
        });
      },
      py::arg("tiles"), py::arg("out"), py::arg("stream"), py::kw_only(), py::arg("first"),
      py::arg("axes"), py::arg("map"));
}

}  // namespace cellpost::bindings
