// One function for each family; module.cpp is the table of contents.
#pragma once

#include <pybind11/pybind11.h>

namespace cellpost::bindings {

void register_flows(pybind11::module_& m);
void register_labels(pybind11::module_& m);
void register_watershed(pybind11::module_& m);
void register_properties(pybind11::module_& m);
void register_nms(pybind11::module_& m);
void register_overlaps(pybind11::module_& m);
void register_paste(pybind11::module_& m);
void register_tiles(pybind11::module_& m);
void register_runtime(pybind11::module_& m);

}  // namespace cellpost::bindings
