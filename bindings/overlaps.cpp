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

std::vector<AxisTables> core_tables(const std::vector<Axis>& axes) {
  std::vector<AxisTables> tables;
  for (const auto& [start, begin, end] : axes) {
    tables.push_back({values(start), values(begin), values(end), {}});
  }
  return tables;
}

/// Rows of a table of so many columns.
template <int N>
size_t n_rows(const char* name, const Numbers& table) {
  if (table.ndim() != 2 || table.shape(1) != N) {
    throw py::value_error(std::string(name) + ": expected shape (n, " + std::to_string(N) +
                          "); got another");
  }
  return static_cast<size_t>(table.shape(0));
}

template <class T>
py::array_t<T> to_numpy(const std::vector<T>& list) {
  return py::array_t<T>(static_cast<py::ssize_t>(list.size()), list.data());
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
        std::vector<TilePair> regions(n_rows<11>("pairs", pairs));
        const int64_t* p = pairs.data();
        for (TilePair& region : regions) {
          region.tile_a = *p++;
          region.tile_b = *p++;
          for (auto* list : {&region.begin_a, &region.begin_b, &region.size}) {
            for (int64_t& value : *list) value = *p++;
          }
        }
        return to_numpy(without_gil(
            [&, at = values(first)] { return api::tile_overlaps({all.given, at}, regions); }));
      },
      py::arg("tiles"), py::arg("stream"), py::kw_only(), py::arg("first"), py::arg("pairs"));
  m.def(
      "bits_of_ids",
      [](const std::vector<py::object>& tiles, intptr_t stream) {
        const HeldTiles all(tiles, stream);
        return to_numpy(without_gil([&] { return api::bits_of_ids(all.given); }));
      },
      py::arg("tiles"), py::arg("stream"));
  m.def(
      "survey_tiles",
      [](const std::vector<py::object>& tiles, intptr_t stream, const Numbers& first,
         const std::vector<Axis>& axes, const std::vector<int64_t>& size, const Numbers& regions) {
        const HeldTiles all(tiles, stream);
        std::vector<TileRegion> parts(n_rows<8>("regions", regions));
        const int64_t* p = regions.data();
        for (TileRegion& part : parts) {
          part.tile = *p++;
          for (auto* list : {&part.begin, &part.size}) {
            for (int64_t& value : *list) value = *p++;
          }
          part.mark = *p++;
        }
        const TileSurvey found = without_gil([&, at = values(first), tables = core_tables(axes)] {
          return api::survey_tiles({all.given, at}, {tables, size}, parts);
        });
        return std::pair{to_numpy(found.first_pixel), to_numpy(found.marks)};
      },
      py::arg("tiles"), py::arg("stream"), py::kw_only(), py::arg("first"), py::arg("axes"),
      py::arg("size"), py::arg("regions"));
  m.def(
      "compose_tiles",
      [](const std::vector<py::object>& tiles, py::handle out, intptr_t stream,
         const Numbers& first, const std::vector<Axis>& axes,
         const py::array_t<int32_t, py::array::c_style | py::array::forcecast>& map) {
        const HeldTiles all(tiles, stream);
        const HeldArray labels(out, "out", stream);
        const std::vector<int32_t> numbers(map.data(), map.data() + map.size());
        without_gil([&, at = values(first), tables = core_tables(axes)] {
          api::compose_tiles({all.given, at}, tables, numbers, labels.get());
        });
      },
      py::arg("tiles"), py::arg("out"), py::arg("stream"), py::kw_only(), py::arg("first"),
      py::arg("axes"), py::arg("map"));
}

}  // namespace cellpost::bindings
