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
#include "kernels/row_matmul.hpp"
#include "arch/avx2_many_rows.hpp"
// clang-format on

namespace pronk::avx2 {

// Sums of two neighbouring products in 16 lanes of int16. vpmaddubsw takes unsigned by signed bytes and saturates; with
// |w| in place of u, and the sign given to a, the largest pair is 2 * 128 * 127, which fits.
template <class Unpacker>
inline __m256i pair_products(__m256i w, __m256i a) {
  if constexpr (Unpacker::kSigned) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  return _mm256_maddubs_epi16(w, a);
}

inline std::int32_t sum_lanes(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

template <class Unpacker>
inline BlockSums dot_256(const Block256& w, const std::int8_t* a, const std::int16_t* sums16) {
  __m256i total = _mm256_setzero_si256();
  const __m256i scales = load_256(w.scale);
  // Lanes 0..7 of a product are one group, 8..15 the next: scales 2i and 2i + 1, from the register's two halves.
  const __m256i low = _mm256_permute4x64_epi64(scales, 0x44), high = _mm256_permute4x64_epi64(scales, 0xee);
  for (int i = 0; i < 8; ++i) {
    const auto first = static_cast<short>(0x0100 + 0x0202 * (2 * (i % 4))), second = static_cast<short>(first + 0x0202);
    const __m256i pick = _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first));
    const __m256i scale = _mm256_shuffle_epi8(i < 4 ? low : high, pick);
    const __m256i products = pair_products<Unpacker>(load_256(w.q + 32 * i), load_256(a + 32 * i));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scale));
  }
  std::int32_t mins = 0;
  if constexpr (Unpacker::kMins) mins = sum_lanes(_mm256_madd_epi16(load_256(w.min), load_256(sums16)));
  return {sum_lanes(total), mins};
}

template <class Unpacker>
inline std::int32_t dot_32(const Block32& w, const std::int8_t* a) {
  return sum_lanes(_mm256_madd_epi16(pair_products<Unpacker>(load_256(w.q), load_256(a)), _mm256_set1_epi16(1)));
}

template <class Unpacker>
constexpr void set_many_rows(MatmulKernels& kernels, Type type) {
  kernels.many_rows[static_cast<int>(type)] = many_rows<Unpacker>;
}

constexpr MatmulKernels matmul_kernels() {
  MatmulKernels kernels{};
  kernels.quantize = quantize_row;
  kernels.many_rows_from = kernels.float_many_rows_from = 8;  // quantized types have one kernel for both
  set_float_kernels(kernels);
  set_row_kernels<UnpackQ4_0, UnpackQ4_1, UnpackQ5_0, UnpackQ5_1, UnpackQ8_0, UnpackQ4_K, UnpackQ5_K, UnpackQ6_K>(
      kernels);
  set_many_rows<UnpackQ4_0>(kernels, Type::kQ4_0);
  set_many_rows<UnpackQ4_1>(kernels, Type::kQ4_1);
  set_many_rows<UnpackQ5_0>(kernels, Type::kQ5_0);
  set_many_rows<UnpackQ5_1>(kernels, Type::kQ5_1);
  set_many_rows<UnpackQ8_0>(kernels, Type::kQ8_0);
  set_many_rows<UnpackQ4_K>(kernels, Type::kQ4_K);
  set_many_rows<UnpackQ5_K>(kernels, Type::kQ5_K);
  set_many_rows<UnpackQ6_K>(kernels, Type::kQ6_K);
  return kernels;
}

}  // namespace pronk::avx2
