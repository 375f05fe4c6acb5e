// NumPy arrays in and out of the C++ core.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace pronk::bind {

namespace nb = nanobind;

// Arguments are checked for type and contiguity, never converted: a silent copy would cost more than the kernel.
template <class T, class... Shape>
using In = nb::ndarray<const T, nb::numpy, nb::c_contig, nb::device::cpu, Shape...>;
template <class T, class... Shape>
using InOut = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu, Shape...>;
using FloatArray = nb::ndarray<float, nb::numpy, nb::c_contig>;

// A new float32 array whose values are not set yet. Its memory comes from arrays that were dropped before, where
// possible.
FloatArray new_array(std::initializer_list<std::size_t> shape);

// Raises ValueError.
[[noreturn]] inline void refuse(const std::string& message) {
  throw nb::value_error(message.c_str());
}

}  // namespace pronk::bind
