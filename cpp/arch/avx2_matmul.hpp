#pragma once
#include "pronk/matmul.hpp"
namespace pronk::avx2 {
constexpr MatmulKernels matmul_kernels() {
  return {};
}
}  // namespace pronk::avx2
