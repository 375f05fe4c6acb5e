// Matrix products with AVX2 and FMA, without VNNI.
#pragma once

namespace pronk::avx2 {

// Values of float_matmul.hpp's tile: rows of x by weight rows, each accumulator two of 16 registers.
constexpr int kFloatTileTokens = 2;
constexpr int kFloatTileWeights = 2;
constexpr bool kCopyRows = false;

}  // namespace pronk::avx2

// clang-format off: each uses those above it.
#include "kernels/float_matmul.hpp"
#include "kernels/quantize_impl.hpp"
#include "arch/avx2_few_rows.hpp"
#include "arch/avx2_many_rows.hpp"
// clang-format on

namespace pronk::avx2 {

template <class Unpacker>
constexpr void set_kernels(MatmulKernels& kernels, Type type) {
  kernels.few_rows[static_cast<int>(type)] = few_rows<Unpacker>;
  kernels.many_rows[static_cast<int>(type)] = many_rows<Unpacker>;
  kernels.many_rows_from[static_cast<int>(type)] = 7;  // measured, as the 8 below
}

constexpr MatmulKernels matmul_kernels() {
  MatmulKernels kernels{};
  kernels.quantize = quantize_row;
  set_float_kernels(kernels, 8);
  set_kernels<UnpackQ4_0>(kernels, Type::kQ4_0);
  set_kernels<UnpackQ4_1>(kernels, Type::kQ4_1);
  set_kernels<UnpackQ5_0>(kernels, Type::kQ5_0);
  set_kernels<UnpackQ5_1>(kernels, Type::kQ5_1);
  set_kernels<UnpackQ8_0>(kernels, Type::kQ8_0);
  set_kernels<UnpackQ4_K>(kernels, Type::kQ4_K);
  set_kernels<UnpackQ5_K>(kernels, Type::kQ5_K);
  set_kernels<UnpackQ6_K>(kernels, Type::kQ6_K);
  set_kernels<UnpackQ2_K>(kernels, Type::kQ2_K);
  set_kernels<UnpackQ3_K>(kernels, Type::kQ3_K);
  set_kernels<UnpackIQ4_NL>(kernels, Type::kIQ4_NL);
  set_kernels<UnpackIQ4_XS>(kernels, Type::kIQ4_XS);
  set_kernels<UnpackIQ3_S>(kernels, Type::kIQ3_S);
  set_kernels<UnpackIQ3_XXS>(kernels, Type::kIQ3_XXS);
  set_kernels<UnpackIQ2_S>(kernels, Type::kIQ2_S);
  set_kernels<UnpackIQ2_XS>(kernels, Type::kIQ2_XS);
  set_kernels<UnpackIQ2_XXS>(kernels, Type::kIQ2_XXS);
  set_kernels<UnpackIQ1_M>(kernels, Type::kIQ1_M);
  set_kernels<UnpackIQ1_S>(kernels, Type::kIQ1_S);
  set_kernels<UnpackTQ1_0>(kernels, Type::kTQ1_0);
  set_kernels<UnpackTQ2_0>(kernels, Type::kTQ2_0);
  set_kernels<UnpackMXFP4>(kernels, Type::kMXFP4);
  return kernels;
}

}  // namespace pronk::avx2
