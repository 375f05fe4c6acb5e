#pragma once
namespace pronk::avx2 {
constexpr MatmulKernels matmul_kernels() {
  return {};
}
}  // namespace pronk::avx2
