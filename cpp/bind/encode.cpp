// Encoding for Python. Shapes and ranges are checked here.
#include "pronk/encode.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "bind/arrays.hpp"
#include "pronk/quants.hpp"

namespace nb = nanobind;
using pronk::bind::In;
using pronk::bind::InOut;
using pronk::bind::refuse;

namespace {

void check_importance(const In<float, nb::ndim<1>>& importance, std::int64_t cols) {
  if (static_cast<std::int64_t>(importance.size()) != cols) {
    refuse(std::to_string(importance.size()) + " importances for " + std::to_string(cols) + " columns");
  }
  for (std::size_t i = 0; i < importance.size(); ++i) {
    const float weight = importance.data()[i];
    if (!std::isfinite(weight) || weight < 0.0f) {
      refuse("the importance of column " + std::to_string(i) + " is " + std::to_string(weight) +
             ", expected a number from 0 on");
    }
  }
}

void encode(const In<float, nb::ndim<2>>& values, int type, const nb::object& importance,
            const InOut<std::uint8_t, nb::ndim<1>>& out) {
  if (!pronk::can_encode(type)) refuse("cannot encode GGUF type " + std::to_string(type));
  const pronk::TypeInfo& info = *pronk::type_info(type);
  const auto rows = static_cast<std::int64_t>(values.shape(0)), cols = static_cast<std::int64_t>(values.shape(1));
  if (cols % info.block != 0) {
    refuse("rows of " + std::to_string(cols) + " values do not divide into " + info.name + "'s blocks of " +
           std::to_string(info.block));
  }
  const std::int64_t bytes = rows * (cols / info.block) * info.bytes;
  if (static_cast<std::int64_t>(out.size()) != bytes) {
    refuse(std::to_string(out.size()) + " bytes of room, expected " + std::to_string(bytes));
  }
  In<float, nb::ndim<1>> weights;
  if (!importance.is_none()) {
    weights = nb::cast<In<float, nb::ndim<1>>>(importance, false);
    check_importance(weights, cols);
  }
  if (rows == 0 || cols == 0) return;
  std::int64_t bad;
  {
    nb::gil_scoped_release release;
    bad = pronk::encode(values.data(), rows * cols, cols, type, importance.is_none() ? nullptr : weights.data(),
                        out.data());
  }
  if (bad >= 0) {
    refuse("value " + std::to_string(bad % cols) + " of row " + std::to_string(bad / cols) + " is " +
           std::to_string(values.data()[bad]));
  }
}

}  // namespace

void bind_encode(nb::module_& m) {
  m.def("encode", &encode, nb::arg("values").noconvert(), nb::arg("type_id"), nb::arg("importance").none(),
        nb::arg("out").noconvert());
}
