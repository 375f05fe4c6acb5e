// The most products of int8 that AVX-512 VNNI does: vpdpbusd on registers.
#pragma once

#include "pronk/peaks.hpp"

namespace pronk::avx512 {

// 12 sums and 12 factors of 32 registers: vpdpbusd takes four to five cycles, and two can start in each.
inline std::uint32_t int8_sum(const Int8Products& products) {
  __m512i total = _mm512_setzero_si512();
  for (int at = 0; at < kPeakWidth; at += 64) {
    __m512i left[kPeakRows], sums[kPeakRows];
#pragma GCC unroll 12
    for (int row = 0; row < kPeakRows; ++row) {
      left[row] = _mm512_loadu_si512(products.left + row * kPeakWidth + at);
      sums[row] = _mm512_setzero_si512();
    }
    for (std::int64_t pass = 0; pass < products.passes; ++pass) {
      for (std::int64_t i = 0; i < products.count; ++i) {
        const __m512i right = _mm512_loadu_si512(products.right + i * kPeakWidth + at);
#pragma GCC unroll 12
        for (int row = 0; row < kPeakRows; ++row) sums[row] = _mm512_dpbusd_epi32(sums[row], right, left[row]);
      }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kPeakRows; ++row) total = _mm512_add_epi32(total, sums[row]);
  }
  std::uint32_t lanes[16], sum = 0;
  _mm512_storeu_si512(lanes, total);
  for (const std::uint32_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace pronk::avx512
