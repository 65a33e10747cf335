#include "api/runtime.h"

#include <pybind11/stl.h>

#include "register.h"

namespace py = pybind11;

namespace cellpost::bindings {

void register_runtime(py::module_& m) {
  m.def("info", [] {
    const api::Info i = api::info();
    py::dict d;
    d["version"] = i.version;
    d["cpu_levels"] = i.cpu_levels;
    d["cpu_level"] = i.cpu_level;
    d["num_threads"] = i.num_threads;
    d["cuda_built"] = i.cuda.built;
    d["cuda_usable"] = i.cuda.usable;
    d["cuda_reason"] = i.cuda.reason;
    d["cuda_devices"] = i.cuda.devices;
    return d;
  });
  m.def("set_num_threads", &api::set_num_threads, py::arg("n"));
  m.def("get_num_threads", &api::num_threads);
  m.def(
      "set_cpu_level", [](const std::string& name) { api::set_cpu_level(name); },
      py::arg("name") = "");
}

}  // namespace cellpost::bindings
