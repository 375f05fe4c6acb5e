#pragma once
namespace pronk::avx512 {
constexpr MatmulKernels matmul_kernels() {
  return {};
}
}  // namespace pronk::avx512
