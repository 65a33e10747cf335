#include "arrays.h"

#include <pybind11/numpy.h>

namespace py = pybind11;

namespace cellpost::bindings {
namespace {

// The stable binary interface of DLPack (dmlc/dlpack, version 0.8 and later, unversioned capsule).
struct DLDevice {
  int32_t type;
  int32_t id;
};
struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
constexpr int32_t kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13;

std::string dtype_name(DLDataType t) {
  const std::string bits = std::to_string(t.bits);
  if (t.lanes != 1) return "other";
  switch (t.code) {
    case 0:
      return "int" + bits;
    case 1:
      return "uint" + bits;
    case 2:
      return "float" + bits;
    case 4:
      return "bfloat" + bits;
    case 5:
      return "complex" + bits;
    case 6:
      return "bool";
    default:
      return "other";
  }
}

/// Read from NumPy's C structures: its attribute costs more than a small array's kernel.
std::string dtype_name(const py::dtype& t) {
  constexpr char kSwapped = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';
  if (t.byteorder() == kSwapped) return "other byte order";
  const std::string bits = std::to_string(8 * t.itemsize());
  switch (t.kind()) {
    case 'b':
      return "bool";
    case 'i':
      return "int" + bits;
    case 'u':
      return "uint" + bits;
    case 'f':
      return "float" + bits;
    case 'c':
      return "complex" + bits;
    default:
      return py::str(t.attr("name")).cast<std::string>();
  }
}

api::Array from_numpy(const py::array& a, const char* name) {
  api::Array out;
  out.name = name;
  out.data = const_cast<void*>(a.data());
  out.dtype = dtype_name(a.dtype());
  if (a.itemsize() == 0) {
    throw py::type_error(std::string(name) + ": expected numbers; got dtype " + out.dtype);
  }
  for (py::ssize_t k = 0; k < a.ndim(); ++k) {
    out.shape.push_back(a.shape(k));
    if (a.strides(k) % a.itemsize() != 0 && a.shape(k) > 1) {
      throw py::value_error(std::string(name) +
                            ": expected strides that are multiples of the "
                            "element's size; got a view into a structured array");
    }
    out.stride.push_back(a.strides(k) / a.itemsize());
  }
  return out;
}

}  // namespace

HeldArray::HeldArray(py::handle array, const char* name, intptr_t stream) {
  if (py::isinstance<py::array>(array)) {
    owner_ = py::reinterpret_borrow<py::object>(array);
    array_ = from_numpy(py::reinterpret_borrow<py::array>(array), name);
    return;
  }
  const int32_t device = array.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int32_t>();
  const bool cuda = device == kCuda || device == kCudaManaged;
  // The kernels run on the stream the caller's library uses now: no synchronisation is asked for.
  py::capsule capsule =
      cuda ? array.attr("__dlpack__")(py::arg("stream") = -1) : array.attr("__dlpack__")();
  if (std::string(capsule.name()) != "dltensor") {
    throw py::type_error(std::string(name) + ": expected a DLPack capsule; got another");
  }
  auto* managed = capsule.get_pointer<DLManagedTensor>();
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  owner_ = py::capsule(managed, [](void* p) {
    auto* m = static_cast<DLManagedTensor*>(p);
    if (m->deleter) m->deleter(m);
  });
  const DLTensor& t = managed->tensor;
  array_.name = name;
  array_.data = static_cast<char*>(t.data) + t.byte_offset;
  array_.dtype = dtype_name(t.dtype);
  array_.shape.assign(t.shape, t.shape + t.ndim);
  array_.stride.resize(array_.shape.size());
  int64_t step = 1;
  for (size_t k = array_.shape.size(); k-- > 0;) {
    array_.stride[k] = t.strides ? t.strides[k] : step;
    step *= array_.shape[k];
  }
  if (cuda) {
    array_.place = Place{true, t.device.id, reinterpret_cast<void*>(stream)};
  } else if (t.device.type != kCpu && t.device.type != kCudaHost) {
    throw py::value_error(std::string(name) +
                          ": expected an array on the CPU or a CUDA device; "
                          "got DLPack device type " +
                          std::to_string(t.device.type));
  }
}

}  // namespace cellpost::bindings
