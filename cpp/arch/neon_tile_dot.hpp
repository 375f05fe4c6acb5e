// A tile of up to four rows of x by eight weight rows with sdot: a 32-bit lane is a weight row, and four bytes of a row
// of x, picked out of 16 by their place, meet four bytes of each weight row.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

constexpr int kWordBytes = 4;  // consecutive values of a weight row in a panel

template <int kTokens>
struct TileSums {
  int32x4_t v[kTokens][2];  // weight rows 0 to 3, 4 to 7
};

template <int kTokens>
inline TileSums<kTokens> zero_sums() {
  TileSums<kTokens> sums;
  for (int t = 0; t < kTokens; ++t) sums.v[t][0] = sums.v[t][1] = vdupq_n_s32(0);
  return sums;
}

// Adds the products of word kLane and of those after it, of four.
template <int kLane, int kTokens>
inline __attribute__((always_inline)) void add_words(const std::int8_t* values, const int8x16_t (&a)[kTokens],
                                                     TileSums<kTokens>& sums) {
  const int8x16_t left = vld1q_s8(values), right = vld1q_s8(values + 16);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    sums.v[t][0] = vdotq_laneq_s32(sums.v[t][0], left, a[t], kLane);
    sums.v[t][1] = vdotq_laneq_s32(sums.v[t][1], right, a[t], kLane);
  }
  if constexpr (kLane < 3) add_words<kLane + 1>(values + 64, a, sums);
}

// Adds the products of 16 values of k: of eight weight rows of a panel, and of rows of x `stride` apart.
template <int kTokens>
inline __attribute__((always_inline)) void add_products(const std::int8_t* values, const std::int8_t* x,
                                                        std::int64_t stride, TileSums<kTokens>& sums) {
  int8x16_t a[kTokens];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) a[t] = vld1q_s8(x + t * stride);
  add_words<0>(values, a, sums);
}

// total += sums * (a scale for each weight row)
template <int kTokens>
inline __attribute__((always_inline)) void add_scaled(const TileSums<kTokens>& sums, const std::int32_t* scales,
                                                      TileSums<kTokens>& total) {
  const int32x4_t left = vld1q_s32(scales), right = vld1q_s32(scales + 4);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    total.v[t][0] = vmlaq_s32(total.v[t][0], sums.v[t][0], left);
    total.v[t][1] = vmlaq_s32(total.v[t][1], sums.v[t][1], right);
  }
}

// Those of row t of x and weight rows 4 * four to 4 * four + 3.
template <int kTokens>
inline int32x4_t sums_of(const TileSums<kTokens>& sums, int t, int four) {
  return sums.v[t][four];
}

// 64 values of 16 weight rows into a panel: column i holds values 4i to 4i + 3 of each row.
inline void store_columns(const Vec16 (&columns)[16], std::int8_t* out) {
  for (int i = 0; i < 16; ++i) store(reinterpret_cast<float*>(out + 64 * i), columns[i]);
}

}  // namespace pronk::PRONK_ISA
