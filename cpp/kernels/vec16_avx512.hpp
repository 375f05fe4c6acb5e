// Sixteen floats in one zmm. vec16_portable.hpp says what each operation means.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own intrinsics start from an undefined register and warn about it (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace pronk::PRONK_ISA {

struct Vec16 {
  __m512 v;
};

struct Mask16 {
  __mmask16 m;
};

// 24 accumulators, 4 columns and the broadcast operand of 32 registers.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;

inline __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}

inline Vec16 zero() {
  return {_mm512_setzero_ps()};
}
inline Vec16 broadcast(float x) {
  return {_mm512_set1_ps(x)};
}
inline Vec16 load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline Vec16 load_partial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(lanes_below(n), p)};
}
inline void store(float* p, Vec16 x) {
  _mm512_storeu_ps(p, x.v);
}
inline void store_partial(float* p, Vec16 x, int n) {
  _mm512_mask_storeu_ps(p, lanes_below(n), x.v);
}

inline Vec16 load_f16(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec16 load_f16_partial(const std::uint16_t* p, int n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p))};
}
inline Vec16 from_bf16(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
inline Vec16 load_bf16(const std::uint16_t* p) {
  return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec16 load_bf16_partial(const std::uint16_t* p, int n) {
  return from_bf16(_mm256_maskz_loadu_epi16(lanes_below(n), p));
}
inline __m256i to_f16(Vec16 x) {
  return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_f16(std::uint16_t* p, Vec16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(x));
}
inline void store_f16_partial(std::uint16_t* p, Vec16 x, int n) {
  _mm256_mask_storeu_epi16(p, lanes_below(n), to_f16(x));
}

inline Vec16 load_int8(const std::int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

inline Vec16 add(Vec16 a, Vec16 b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vec16 sub(Vec16 a, Vec16 b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vec16 mul(Vec16 a, Vec16 b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vec16 div(Vec16 a, Vec16 b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec16 max(Vec16 a, Vec16 b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline Vec16 min(Vec16 a, Vec16 b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline Mask16 less(Vec16 a, Vec16 b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
inline Mask16 first(int n) {
  return {lanes_below(n)};
}
inline Vec16 select(Mask16 condition, Vec16 yes, Vec16 no) {
  return {_mm512_mask_blend_ps(condition.m, no.v, yes.v)};
}
inline std::uint32_t bits(Mask16 mask) {
  return mask.m;
}

inline float reduce_add(Vec16 x) {
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1));
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x.v), high);                    // i, i + 8
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));  // i, i + 4
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));                                  // i, i + 2
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float reduce_max(Vec16 x) {
  return _mm512_reduce_max_ps(x.v);
}

// vpdpbusd multiplies unsigned with signed bytes: the keys get 128 added, which is the sign bit turned over.
template <int ROWS>
inline void dot_keys(const std::int8_t* keys, const std::int8_t* queries, std::int64_t stride,
                     const std::int32_t* starts, Vec16 (&dots)[ROWS]) {
  const __m512i signs = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i sums[ROWS];
  for (int row = 0; row < ROWS; ++row) sums[row] = _mm512_set1_epi32(starts[row * stride / 32]);
  for (int j = 0; j < 8; ++j) {
    const __m512i key = _mm512_xor_si512(_mm512_loadu_si512(keys + 64 * j), signs);
    for (int row = 0; row < ROWS; ++row) {
      std::int32_t four;
      __builtin_memcpy(&four, queries + row * stride + 4 * j, 4);
      sums[row] = _mm512_dpbusd_epi32(sums[row], key, _mm512_set1_epi32(four));
    }
  }
  for (int row = 0; row < ROWS; ++row) dots[row] = {_mm512_cvtepi32_ps(sums[row])};
}

inline Vec16 scale_by_power(Vec16 x, Vec16 n) {
  return {_mm512_scalef_ps(x.v, n.v)};
}

// Row i of a 16 x 16 square becomes column i.
inline void transpose16(Vec16 (&s)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {  // 1 x 1 within pairs of rows
    t[i] = _mm512_unpacklo_ps(s[i].v, s[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(s[i].v, s[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {  // then 4 rows: s[i + j] holds columns j, j + 4, j + 8, j + 12
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
    const __m512d c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
    s[i].v = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    s[i + 1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    s[i + 2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    s[i + 3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int j = 0; j < 4; ++j) {  // then the 4 x 4 square of 128-bit quarters
    const __m512 ab_even = _mm512_shuffle_f32x4(s[j].v, s[4 + j].v, 0x88);
    const __m512 ab_odd = _mm512_shuffle_f32x4(s[j].v, s[4 + j].v, 0xdd);
    const __m512 cd_even = _mm512_shuffle_f32x4(s[8 + j].v, s[12 + j].v, 0x88);
    const __m512 cd_odd = _mm512_shuffle_f32x4(s[8 + j].v, s[12 + j].v, 0xdd);
    t[j] = _mm512_shuffle_f32x4(ab_even, cd_even, 0x88);
    t[4 + j] = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88);
    t[8 + j] = _mm512_shuffle_f32x4(ab_even, cd_even, 0xdd);
    t[12 + j] = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xdd);
  }
  for (int i = 0; i < 16; ++i) s[i].v = t[i];
}

}  // namespace pronk::PRONK_ISA

#include "vec16_common.hpp"
