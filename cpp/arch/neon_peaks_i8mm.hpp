// The most products of int8 that NEON's matrix products do: smmla on registers, two rows of each side at a time.
#pragma once

#include "pronk/peaks.hpp"

namespace pronk::PRONK_ISA {

// 12 sums and 12 factors of 32 registers; two shuffles bring two rows of the right side together for 12 products.
inline std::uint32_t int8_sum(const Int8Products& products) {
  constexpr int kPairs = kPeakRows / 2;
  uint32x4_t total = vdupq_n_u32(0);
  for (int at = 0; at < kPeakWidth; at += 16) {
    int8x16_t left[2][kPairs];
    int32x4_t sums[2][kPairs];
#pragma GCC unroll 6
    for (int p = 0; p < kPairs; ++p) {
      const std::int8_t* even = products.left + 2 * p * kPeakWidth + at;
      left[0][p] = lower_halves(vld1q_s8(even), vld1q_s8(even + kPeakWidth));
      left[1][p] = upper_halves(vld1q_s8(even), vld1q_s8(even + kPeakWidth));
      sums[0][p] = sums[1][p] = vdupq_n_s32(0);
    }
    for (std::int64_t pass = 0; pass < products.passes; ++pass) {
      for (std::int64_t i = 0; i < products.count; i += 2) {
        const std::int8_t* even = products.right + i * kPeakWidth + at;
        const int8x16_t first = vld1q_s8(even), second = vld1q_s8(even + kPeakWidth);
        const int8x16_t right[2] = {lower_halves(first, second), upper_halves(first, second)};
#pragma GCC unroll 6
        for (int p = 0; p < kPairs; ++p) {
          sums[0][p] = vmmlaq_s32(sums[0][p], left[0][p], right[0]);
          sums[1][p] = vmmlaq_s32(sums[1][p], left[1][p], right[1]);
        }
      }
    }
#pragma GCC unroll 6
    for (int p = 0; p < kPairs; ++p) {
      total = vaddq_u32(total, vreinterpretq_u32_s32(sums[0][p]));
      total = vaddq_u32(total, vreinterpretq_u32_s32(sums[1][p]));
    }
  }
  return vaddvq_u32(total);
}

}  // namespace pronk::PRONK_ISA
