// The kernels that measure what this machine can do at most. Shapes are checked here, once.
#include "pronk/peaks.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

#include "bind/arrays.hpp"

namespace nb = nanobind;
using pronk::bind::In;
using pronk::bind::refuse;

void bind_peaks(nb::module_& m);

namespace {

void check(std::size_t count, std::int64_t passes) {
  if (count == 0 || count % pronk::kPeakSlice != 0 || passes < 1) {
    refuse("the right side has " + std::to_string(count) + " rows for " + std::to_string(passes) +
           " passes, expected a multiple of " + std::to_string(pronk::kPeakSlice) + " and at least one pass");
  }
}

std::uint64_t read_sum(const In<std::uint8_t, nb::ndim<1>>& data) {
  if (data.size() % pronk::kPeakLine != 0) {
    refuse(std::to_string(data.size()) + " bytes are no multiple of " + std::to_string(pronk::kPeakLine));
  }
  nb::gil_scoped_release release;
  return pronk::read_sum(data.data(), static_cast<std::int64_t>(data.size()));
}

std::uint32_t int8_sum(const In<std::int8_t, nb::shape<pronk::kPeakRows, pronk::kPeakWidth>>& left,
                       const In<std::int8_t, nb::shape<-1, pronk::kPeakWidth>>& right, std::int64_t passes) {
  check(right.shape(0), passes);
  nb::gil_scoped_release release;
  return pronk::int8_sum({left.data(), right.data(), static_cast<std::int64_t>(right.shape(0)), passes});
}

double float_sum(const In<float, nb::shape<pronk::kPeakRows>>& left, const In<float, nb::shape<-1, 16>>& right,
                 std::int64_t passes) {
  check(right.shape(0), passes);
  nb::gil_scoped_release release;
  return pronk::float_sum({left.data(), right.data(), static_cast<std::int64_t>(right.shape(0)), passes});
}

}  // namespace

void bind_peaks(nb::module_& m) {
  m.def("read_sum", &read_sum, nb::arg("data").noconvert());
  m.def("int8_sum", &int8_sum, nb::arg("left").noconvert(), nb::arg("right").noconvert(), nb::arg("passes"));
  m.def("float_sum", &float_sum, nb::arg("left").noconvert(), nb::arg("right").noconvert(), nb::arg("passes"));
}
