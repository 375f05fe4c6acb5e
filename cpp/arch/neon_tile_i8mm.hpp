// A tile of up to four rows of x by eight weight rows with smmla, which multiplies two rows of x by two weight rows,
// eight values of each, in one instruction. neon_tile_dot.hpp says what each function means.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

constexpr int kWordBytes = 8;

template <int kTokens>
struct TileSums {
  static constexpr int kPairs = (kTokens + 1) / 2;  // an odd row of x is multiplied twice
  int32x4_t v[kPairs][4];                           // [row 2p with weight rows 2i, 2i + 1; row 2p + 1 with the same]
};

template <int kTokens>
inline TileSums<kTokens> zero_sums() {
  TileSums<kTokens> sums;
  for (auto& pair : sums.v) {
    for (int32x4_t& four : pair) four = vdupq_n_s32(0);
  }
  return sums;
}

// The lower halves of both, or the upper ones.
inline int8x16_t lower_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vtrn1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int8x16_t upper_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vtrn2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

template <int kTokens>
inline __attribute__((always_inline)) void add_products(const std::int8_t* values, const std::int8_t* x,
                                                        std::int64_t stride, TileSums<kTokens>& sums) {
  constexpr int kPairs = TileSums<kTokens>::kPairs;
  int8x16_t eights[2][kPairs];
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
    const int8x16_t even = vld1q_s8(x + 2 * p * stride);
    const int8x16_t odd = 2 * p + 1 < kTokens ? vld1q_s8(x + (2 * p + 1) * stride) : even;
    eights[0][p] = lower_halves(even, odd);
    eights[1][p] = upper_halves(even, odd);
  }
#pragma GCC unroll 2
  for (int word = 0; word < 2; ++word) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int8x16_t two_rows = vld1q_s8(values + 128 * word + 16 * i);
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) sums.v[p][i] = vmmlaq_s32(sums.v[p][i], eights[word][p], two_rows);
    }
  }
}

template <int kTokens>
inline __attribute__((always_inline)) void add_scaled(const TileSums<kTokens>& sums, const std::int32_t* scales,
                                                      TileSums<kTokens>& total) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int32x2_t two = vld1_s32(scales + 2 * i);
    const int32x4_t scale = vcombine_s32(two, two);
#pragma GCC unroll 2
    for (int p = 0; p < TileSums<kTokens>::kPairs; ++p) total.v[p][i] = vmlaq_s32(total.v[p][i], sums.v[p][i], scale);
  }
}

template <int kTokens>
inline int32x4_t sums_of(const TileSums<kTokens>& sums, int t, int four) {
  const int8x16_t first = vreinterpretq_s8_s32(sums.v[t / 2][2 * four]);
  const int8x16_t second = vreinterpretq_s8_s32(sums.v[t / 2][2 * four + 1]);
  return vreinterpretq_s32_s8(t % 2 == 0 ? lower_halves(first, second) : upper_halves(first, second));
}

// Eight values of a row side by side: two columns, word by word.
inline void store_columns(const Vec16 (&columns)[16], std::int8_t* out) {
  for (int i = 0; i < 8; ++i) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      const float32x4x2_t both = {{columns[2 * i].v[quarter], columns[2 * i + 1].v[quarter]}};
      vst2q_f32(reinterpret_cast<float*>(out + 128 * i + 32 * quarter), both);
    }
  }
}

}  // namespace pronk::PRONK_ISA
