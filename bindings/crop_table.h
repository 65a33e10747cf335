// The table of crops of differing sizes, as an argument.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "api/paste.h"
#include "arrays.h"

namespace cellpost::bindings {

using OptionalTable = std::optional<std::pair<pybind11::object, pybind11::object>>;

class HeldTable {
 public:
  HeldTable(const OptionalTable& table, intptr_t stream) {
    if (!table) return;
    start_.emplace(table->first, "start", stream);
    sizes_.emplace(table->second, "sizes", stream);
  }
  std::optional<api::CropTable> get() const {
    if (!start_) return std::nullopt;
    return api::CropTable{start_->get(), sizes_->get()};
  }

 private:
  std::optional<HeldArray> start_, sizes_;
};

}  // namespace cellpost::bindings
