// Many rows of x: register tiles of a few rows of x by eight weight rows over a panel of 16. The tile itself, and with
// it the order of a panel's values, is neon_tile_dot.hpp's or neon_tile_i8mm.hpp's, whichever is included before.
#pragma once

#include "arch/neon_few_rows.hpp"
#include "arch/neon_panel.hpp"

namespace pronk::PRONK_ISA {

constexpr int kTileTokens = 4;  // 8 + 8 accumulators, 4 rows of x, 2 weights, 2 scales of 32 registers

// Adds min * (sum over the group) for group kLane of eight and for those after it.
template <int kLane, int kTokens>
inline __attribute__((always_inline)) void add_mins(const std::int16_t (*mins)[16], const int16x8_t (&sums)[kTokens],
                                                    int32x4_t (&total)[kTokens][2]) {
  const int16x8_t eight = vld1q_s16(mins[kLane]);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    total[t][0] = vmlal_laneq_s16(total[t][0], vget_low_s16(eight), sums[t], kLane);
    total[t][1] = vmlal_high_laneq_s16(total[t][1], eight, sums[t], kLane);
  }
  if constexpr (kLane < 7) add_mins<kLane + 1>(mins, sums, total);
}

// sum = fma(float(whole), factor * scale, sum), for four weight rows
inline void add_scaled_to(int32x4_t whole, const float* factor, float scale, float* sum) {
  vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(whole), vmulq_n_f32(vld1q_f32(factor), scale)));
}

// One block of 256 values of the weight rows from `first` (0 or 8) on against kTokens rows of x, `at` values into the
// int8 form.
template <class Unpacker, int kTokens>
inline void half_tile_256(const typename Panel256<Unpacker>::Block& panel, int first, const Activations& x,
                          std::int64_t at, PanelRow* values, PanelRow* mins) {
  constexpr int kGroup = Unpacker::kGroup, kGroups = 256 / kGroup;
  const std::int8_t* a = x.int8.q + at;
  const std::int8_t* weights = panel.values + kWordBytes * first;
  TileSums<kTokens> total = zero_sums<kTokens>();
  for (int g = 0; g < kGroups; ++g) {
    TileSums<kTokens> sums = zero_sums<kTokens>();
    for (int i = 0; i < kGroup / 16; ++i) {
      const int k = kGroup * g + 16 * i;
      add_products(weights + 16 * k, a + k, x.stride, sums);
    }
    add_scaled(sums, panel.scales[g] + first, total);
  }
  const float* scale = x.int8.scale + at / 256;
  const std::int64_t next = x.stride / 256;  // the next row's scale
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    float* sum = values[t].lane + first;
    add_scaled_to(sums_of(total, t, 0), panel.d + first, scale[t * next], sum);
    add_scaled_to(sums_of(total, t, 1), panel.d + first + 4, scale[t * next], sum + 4);
  }
  if constexpr (Unpacker::kMins) {
    int32x4_t min_sums[kTokens][2] = {};
    int16x8_t sums[kGroups / 8][kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      int16x8_t own[kGroups / 8];
      group_sums<kGroup>(x.int8.sums16 + at / 16 + t * x.stride / 16, own);
      for (int i = 0; i < kGroups / 8; ++i) sums[i][t] = own[i];
    }
    for (int i = 0; i < kGroups / 8; ++i) {
      const auto* eight = reinterpret_cast<const std::int16_t (*)[16]>(panel.mins[8 * i] + first);
      add_mins<0>(eight, sums[i], min_sums);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      float* sum = mins[t].lane + first;
      add_scaled_to(min_sums[t][0], panel.dmin + first, scale[t * next], sum);
      add_scaled_to(min_sums[t][1], panel.dmin + first + 4, scale[t * next], sum + 4);
    }
  }
}

template <class Unpacker, int kTokens>
inline void tile_256(const typename Panel256<Unpacker>::Block& panel, const Activations& x, std::int64_t at,
                     PanelRow* values, PanelRow* mins) {
  half_tile_256<Unpacker, kTokens>(panel, 0, x, at, values, mins);
  half_tile_256<Unpacker, kTokens>(panel, 8, x, at, values, mins);
}

// Up to four blocks of 32 values, which belong to one chain, of the weight rows from `first` on.
template <class Unpacker, int kTokens>
inline void half_tile_32(const typename Panel32<Unpacker>::Block& panel, int first, int blocks, const Activations& x,
                         std::int64_t at, PanelRow* values, PanelRow* mins) {
  const std::int64_t next = x.stride / 32;
  const std::int8_t* weights = panel.values + kWordBytes * first;
  for (int b = 0; b < blocks; ++b) {
    const std::int64_t place = at / 32 + b;
    TileSums<kTokens> sums = zero_sums<kTokens>();
    add_products(weights + 16 * 32 * b, x.int8.q + at + 32 * b, x.stride, sums);
    add_products(weights + 16 * (32 * b + 16), x.int8.q + at + 32 * b + 16, x.stride, sums);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const float scale = x.int8.scale[t * next + place];
      float* sum = values[t].lane + first;
      add_scaled_to(sums_of(sums, t, 0), panel.d[b] + first, scale, sum);
      add_scaled_to(sums_of(sums, t, 1), panel.d[b] + first + 4, scale, sum + 4);
    }
    if constexpr (Unpacker::kMins) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const float scaled_sum = x.int8.scaled_sum[t * next + place];
        for (int i = first; i < first + 8; i += 4) {
          float* sum = mins[t].lane + i;
          vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), vld1q_f32(panel.m[b] + i), scaled_sum));
        }
      }
    }
  }
}

template <class Unpacker, int kTokens>
inline void tile_32(const typename Panel32<Unpacker>::Block& panel, int blocks, const Activations& x, std::int64_t at,
                    PanelRow* values, PanelRow* mins) {
  half_tile_32<Unpacker, kTokens>(panel, 0, blocks, x, at, values, mins);
  half_tile_32<Unpacker, kTokens>(panel, 8, blocks, x, at, values, mins);
}

}  // namespace pronk::PRONK_ISA

#include "kernels/panel_strips.hpp"
