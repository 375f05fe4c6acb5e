#pragma once
#include "pronk/matmul.hpp"
namespace pronk::portable {
constexpr MatmulKernels matmul_kernels() {
  return {};
}
}  // namespace pronk::portable
