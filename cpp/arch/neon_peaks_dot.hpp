// The most products of int8 that NEON's dot products do: sdot on registers.
#pragma once

#include "pronk/peaks.hpp"

namespace pronk::PRONK_ISA {

// 12 sums and 12 factors of 32 registers: sdot takes three to four cycles, and two to four can start in each.
inline std::uint32_t int8_sum(const Int8Products& products) {
  uint32x4_t total = vdupq_n_u32(0);
  for (int at = 0; at < kPeakWidth; at += 16) {
    int8x16_t left[kPeakRows];
    int32x4_t sums[kPeakRows];
#pragma GCC unroll 12
    for (int row = 0; row < kPeakRows; ++row) {
      left[row] = vld1q_s8(products.left + row * kPeakWidth + at);
      sums[row] = vdupq_n_s32(0);
    }
    for (std::int64_t pass = 0; pass < products.passes; ++pass) {
      for (std::int64_t i = 0; i < products.count; ++i) {
        const int8x16_t right = vld1q_s8(products.right + i * kPeakWidth + at);
#pragma GCC unroll 12
        for (int row = 0; row < kPeakRows; ++row) sums[row] = vdotq_s32(sums[row], right, left[row]);
      }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kPeakRows; ++row) total = vaddq_u32(total, vreinterpretq_u32_s32(sums[row]));
  }
  return vaddvq_u32(total);
}

}  // namespace pronk::PRONK_ISA
