// The most products of int8 that AVX2 does. As in avx2_many_rows.hpp vpmaddubsw makes int16 sums of two products, which
// add up in int16 for as long as four-bit weights allow, and then vpmaddwd takes them to int32: every product by itself
// to int32 would be a limit that kernels pass.
#pragma once

#include "pronk/peaks.hpp"

namespace pronk::avx2 {

// 4 + 4 sums, 4 factors, and 3 in passing, of 16 registers.
inline std::uint32_t int8_sum(const Int8Products& products) {
  constexpr int kRows = 4;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total = _mm256_setzero_si256();
  for (int tile = 0; tile < kPeakRows / kRows * (kPeakWidth / 32); ++tile) {
    const int first = tile % (kPeakRows / kRows) * kRows, at = tile / (kPeakRows / kRows) * 32;
    __m256i left[kRows], sums[kRows];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      left[row] = load_256(products.left + (first + row) * kPeakWidth + at);
      sums[row] = _mm256_setzero_si256();
    }
    for (std::int64_t pass = 0; pass < products.passes; ++pass) {
      for (std::int64_t i = 0; i < products.count; i += kPeakSlice) {
        __m256i pairs[kRows];
#pragma GCC unroll 4
        for (int row = 0; row < kRows; ++row) pairs[row] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < kPeakSlice; ++j) {
          const __m256i right = load_256(products.right + (i + j) * kPeakWidth + at);
#pragma GCC unroll 4
          for (int row = 0; row < kRows; ++row) {
            pairs[row] = _mm256_add_epi16(pairs[row], _mm256_maddubs_epi16(right, left[row]));
            keep(pairs[row]);
          }
        }
#pragma GCC unroll 4
        for (int row = 0; row < kRows; ++row) {
          sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(pairs[row], ones));
        }
      }
    }
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) total = _mm256_add_epi32(total, sums[row]);
  }
  std::uint32_t lanes[8], sum = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), total);
  for (const std::uint32_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace pronk::avx2
