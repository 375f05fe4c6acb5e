// Matrix products, embedding rows and block decoding for Python. Shapes and ranges are checked here, once.
#include "pronk/matmul.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind/arrays.hpp"

namespace nb = nanobind;
using pronk::bind::FloatArray;
using pronk::bind::In;
using pronk::bind::new_array;

namespace {

const pronk::TypeInfo& type_of(int type) {
  const pronk::TypeInfo* info = pronk::type_info(type);
  if (info == nullptr) throw nb::value_error(("cannot compute with GGUF type " + std::to_string(type)).c_str());
  return *info;
}

// A weight where its bytes are; holding the array keeps the mapping under it alive.
class Matrix {
 public:
  Matrix(In<std::uint8_t, nb::ndim<1>> data, int type, std::int64_t rows, std::int64_t cols) : data_(std::move(data)) {
    const pronk::TypeInfo& info = type_of(type);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() / 2;  // kernels count rows and values in int
    if (rows < 1 || cols < 1 || rows > most || cols > most || cols % info.block != 0) {
      throw nb::value_error(("a matrix of type " + std::string(info.name) + " cannot have shape (" +
                             std::to_string(rows) + ", " + std::to_string(cols) + "): rows are blocks of " +
                             std::to_string(info.block))
                                .c_str());
    }
    const std::int64_t row_bytes = cols / info.block * info.bytes;
    if (static_cast<std::int64_t>(data_.size()) != rows * row_bytes) {
      throw nb::value_error(("a (" + std::to_string(rows) + ", " + std::to_string(cols) + ") matrix of type " +
                             info.name + " takes " + std::to_string(rows * row_bytes) + " bytes, got " +
                             std::to_string(data_.size()))
                                .c_str());
    }
    view_ = {data_.data(), type, rows, cols, row_bytes};
  }
  const pronk::MatrixView& view() const { return view_; }

 private:
  In<std::uint8_t, nb::ndim<1>> data_;
  pronk::MatrixView view_;
};

nb::tuple linear(const In<float, nb::ndim<2>>& x, const nb::sequence& weights) {
  std::vector<pronk::MatrixView> views;
  std::vector<float*> outs;
  nb::list results;
  for (nb::handle weight : weights) {
    const auto& view = nb::cast<const Matrix&>(weight).view();
    if (view.cols != static_cast<std::int64_t>(x.shape(1))) {
      throw nb::value_error(
          ("x has " + std::to_string(x.shape(1)) + " columns, the weight " + std::to_string(view.cols)).c_str());
    }
    FloatArray y = new_array({x.shape(0), static_cast<std::size_t>(view.rows)});
    views.push_back(view);
    outs.push_back(y.data());
    results.append(y);
  }
  {
    nb::gil_scoped_release release;
    pronk::linear(x.data(), static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)), views.data(),
                  static_cast<int>(views.size()), outs.data());
  }
  return nb::tuple(results);
}

FloatArray embed(const Matrix& table, const In<std::int32_t, nb::ndim<1>>& ids) {
  const pronk::MatrixView& view = table.view();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int32_t id = ids.data()[i];
    if (id < 0 || id >= view.rows) {
      throw nb::value_error(
          ("id " + std::to_string(id) + " is outside the table's " + std::to_string(view.rows) + " rows").c_str());
    }
  }
  FloatArray out = new_array({ids.size(), static_cast<std::size_t>(view.cols)});
  nb::gil_scoped_release release;
  pronk::embed(view, ids.data(), static_cast<int>(ids.size()), out.data());
  return out;
}

FloatArray decode(const In<std::uint8_t, nb::ndim<1>>& data, int type, std::int64_t count) {
  const pronk::TypeInfo& info = type_of(type);
  if (count < 0 || count % info.block != 0 ||
      count / info.block > std::numeric_limits<std::int64_t>::max() / info.bytes ||
      static_cast<std::int64_t>(data.size()) != count / info.block * info.bytes) {
    throw nb::value_error((std::to_string(data.size()) + " bytes are not " + std::to_string(count) +
                           " values of type " + info.name + " (" + std::to_string(info.bytes) + " bytes for " +
                           std::to_string(info.block) + ")")
                              .c_str());
  }
  FloatArray out = new_array({static_cast<std::size_t>(count)});
  nb::gil_scoped_release release;
  pronk::decode(data.data(), type, count, out.data());
  return out;
}

}  // namespace

void bind_matmul(nb::module_& m) {
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<In<std::uint8_t, nb::ndim<1>>, int, std::int64_t, std::int64_t>(), nb::arg("data").noconvert(),
           nb::arg("type_id"), nb::arg("rows"), nb::arg("cols"))
      .def_prop_ro("rows", [](const Matrix& matrix) { return matrix.view().rows; })
      .def_prop_ro("cols", [](const Matrix& matrix) { return matrix.view().cols; })
      .def_prop_ro("type_id", [](const Matrix& matrix) { return matrix.view().type; });
  m.def("linear", &linear, nb::arg("x").noconvert(), nb::arg("weights"));
  m.def("embed", &embed, nb::arg("table"), nb::arg("ids").noconvert());
  m.def("decode", &decode, nb::arg("data").noconvert(), nb::arg("type_id"), nb::arg("count"));
}
