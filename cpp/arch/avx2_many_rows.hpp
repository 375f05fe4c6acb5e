// Many rows of x: register tiles of a few rows of x by 16 weight rows over a panel. A lane of 32 bits is a weight row;
// four bytes of x are broadcast to all lanes, and vpmaddubsw makes two int16 sums of two products in each. Those add
// up to kSlice values of k in int16, and vpmaddwd takes them, times their scale, to int32.
//
// The panel is packed piece by piece (512 values of k), and while a piece lies in the L1 cache all rows of x pass over
// it; between pieces the sums of each value wait in scratch memory.
#pragma once

#include "arch/avx2_panel.hpp"

namespace pronk::avx2 {

constexpr int kTileTokens = 3;  // 6 + 6 accumulators, 2 weights, 1 broadcast of 16 registers

// One value of each weight row of the panel.
struct alignas(64) PanelRow {
  float lane[kStripRows];
};

// Four bytes (two int16, ...) at p, in every lane.
inline __m256i broadcast_word(const void* p) {
  return _mm256_set1_epi32(static_cast<int>(load_u32(p)));
}

template <int kTokens>
inline __attribute__((always_inline)) void set_zero(__m256i (&c)[kTokens][2]) {
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) c[t][0] = c[t][1] = _mm256_setzero_si256();
}

// total[t] += factors * (the products of 4 * kWords values of k, whose sums fit int16); factors: int16 pairs.
template <int kTokens, int kWords>
inline __attribute__((always_inline)) void add_slice(const std::uint8_t (*values)[16][4], const std::int8_t* a,
                                                     std::int64_t stride, __m256i left_factor, __m256i right_factor,
                                                     __m256i (&total)[kTokens][2]) {
  __m256i c[kTokens][2];
  set_zero(c);
#pragma GCC unroll 8
  for (int word = 0; word < kWords; ++word) {
    const __m256i left = load_256(values[word]), right = load_256(values[word][8]);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const __m256i four = broadcast_word(a + t * stride + 4 * word);
      c[t][0] = _mm256_add_epi16(c[t][0], _mm256_maddubs_epi16(left, four));
      c[t][1] = _mm256_add_epi16(c[t][1], _mm256_maddubs_epi16(right, four));
      keep(c[t][0]);
      keep(c[t][1]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    total[t][0] = _mm256_add_epi32(total[t][0], _mm256_madd_epi16(c[t][0], left_factor));
    total[t][1] = _mm256_add_epi32(total[t][1], _mm256_madd_epi16(c[t][1], right_factor));
  }
}

// Adds pairs[8] times the sums over 16 values of x.
template <int kTokens>
inline __attribute__((always_inline)) void add_pairs(const std::int32_t (*pairs)[16], const std::int16_t* sums16,
                                                     std::int64_t stride, __m256i (&c)[kTokens][2]) {
  for (int pair = 0; pair < 8; ++pair) {
    const __m256i left = load_256(pairs[pair]), right = load_256(pairs[pair] + 8);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const __m256i two = broadcast_word(sums16 + t * stride + 2 * pair);
      c[t][0] = _mm256_add_epi32(c[t][0], _mm256_madd_epi16(left, two));
      c[t][1] = _mm256_add_epi32(c[t][1], _mm256_madd_epi16(right, two));
    }
  }
}

// sums[t] = fma(float(c[t]), factor * scale of row t's block, sums[t])
template <int kTokens>
inline __attribute__((always_inline)) void add_scaled(const __m256i (&c)[kTokens][2], const float* factor,
                                                      const float* scale, std::int64_t stride, PanelRow* sums) {
  const Vec16 factors = load(factor);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    const Vec16 whole = {_mm256_cvtepi32_ps(c[t][0]), _mm256_cvtepi32_ps(c[t][1])};
    store(sums[t].lane, fma(whole, mul(factors, broadcast(scale[t * stride])), load(sums[t].lane)));
  }
}

// One block of 256 values against kTokens rows of x, `at` values into the int8 form.
template <class Unpacker, int kTokens>
inline void tile_256(const typename Panel256<Unpacker>::Block& panel, const Activations& x, std::int64_t at,
                     PanelRow* values, PanelRow* mins) {
  constexpr int kSlice = Panel256<Unpacker>::kSlice;
  const std::int64_t stride = x.stride;
  const std::int8_t* a = x.int8.q + at;
  __m256i total[kTokens][2];
  set_zero(total);
  for (int k = 0; k < 256; k += kSlice) {
    const std::int32_t* scales = panel.scales[k / 16];
    const __m256i left = load_256(scales), right = load_256(scales + 8);
    add_slice<kTokens, kSlice / 4>(panel.values[0] + k / 4, a + k, stride, left, right, total);
    if constexpr (Panel256<Unpacker>::kPlanes == 2) {
      add_slice<kTokens, kSlice / 4>(panel.values[1] + k / 4, a + k, stride, _mm256_slli_epi16(left, 4),
                                     _mm256_slli_epi16(right, 4), total);
    }
  }
  const std::int16_t* sums16 = x.int8.sums16 + at / 16;
  const float* scale = x.int8.scale + at / 256;
  if constexpr (Unpacker::kOffset != 0) add_pairs<kTokens>(panel.corrections, sums16, stride / 16, total);
  add_scaled<kTokens>(total, panel.d, scale, stride / 256, values);
  if constexpr (Unpacker::kMins) {
    set_zero(total);
    add_pairs<kTokens>(panel.mins, sums16, stride / 16, total);
    add_scaled<kTokens>(total, panel.dmin, scale, stride / 256, mins);
  }
}

// Up to four blocks of 32 values, which belong to one chain.
template <class Unpacker, int kTokens>
inline void tile_32(const typename Panel32<Unpacker>::Block& panel, int blocks, const Activations& x, std::int64_t at,
                    PanelRow* values, PanelRow* mins) {
  using Panel = Panel32<Unpacker>;
  constexpr int kSlice = Panel::kSlice;
  const std::int64_t stride = x.stride, block_stride = stride / 32;
  for (int b = 0; b < blocks; ++b) {
    const std::int64_t place = at / 32 + b;
    __m256i total[kTokens][2];
    if constexpr (Unpacker::kOffset != 0) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {  // -kOffset * (sum of a)
        const __m256i start = broadcast_word(x.int8.start + t * block_stride + place);
        total[t][0] = total[t][1] = _mm256_srai_epi32(start, 8 - Unpacker::kBits);
      }
    } else {
      set_zero(total);
    }
#pragma GCC unroll 1  // or the same bytes of x would be kept for the second plane, in memory
    for (int plane = 0; plane < Panel::kPlanes; ++plane) {
      const __m256i weight = _mm256_set1_epi16(plane == 0 ? 1 : 16);
#pragma GCC unroll 2
      for (int k = 0; k < 32; k += kSlice) {
        add_slice<kTokens, kSlice / 4>(panel.values[plane] + 8 * b + k / 4, x.int8.q + at + 32 * b + k, stride, weight,
                                       weight, total);
      }
    }
    add_scaled<kTokens>(total, panel.d[b], x.int8.scale + place, block_stride, values);
    if constexpr (Unpacker::kMins) {
      const Vec16 m = load(panel.m[b]);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const Vec16 scaled_sum = broadcast(x.int8.scaled_sum[t * block_stride + place]);
        store(mins[t].lane, fma(m, scaled_sum, load(mins[t].lane)));
      }
    }
  }
}

}  // namespace pronk::avx2

#include "kernels/panel_strips.hpp"
