// Sixteen floats in two ymm (AVX2, FMA, F16C). vec16_portable.hpp says what each operation means.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace pronk::PRONK_ISA {

struct Vec16 {
  __m256 low, high;
};

struct Mask16 {
  __m256 low, high;  // all ones or all zeros in each lane
};

// 12 of the 16 registers accumulate: 6 rows of one Vec16.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 1;

// All ones in lanes below n, counted from lane `from`.
inline __m256i lanes_below(int n, int from) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - from), lanes);
}

inline Vec16 zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Vec16 broadcast(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Vec16 load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline Vec16 load_partial(const float* p, int n) {
  return {_mm256_maskload_ps(p, lanes_below(n, 0)), _mm256_maskload_ps(p + 8, lanes_below(n, 8))};
}
inline void store(float* p, Vec16 x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline void store_partial(float* p, Vec16 x, int n) {
  _mm256_maskstore_ps(p, lanes_below(n, 0), x.low);
  _mm256_maskstore_ps(p + 8, lanes_below(n, 8), x.high);
}

inline Vec16 load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
// There are no masked 16-bit moves before AVX-512: the tail goes through the stack.
inline Vec16 load_f16_partial(const std::uint16_t* p, int n) {
  std::uint16_t full[16] = {};
  __builtin_memcpy(full, p, 2 * static_cast<unsigned>(n));
  return load_f16(full);
}
inline __m256 from_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline Vec16 load_bf16(const std::uint16_t* p) {
  return {from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec16 load_bf16_partial(const std::uint16_t* p, int n) {
  std::uint16_t full[16] = {};
  __builtin_memcpy(full, p, 2 * static_cast<unsigned>(n));
  return load_bf16(full);
}
inline void store_f16(std::uint16_t* p, Vec16 x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.low, nearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.high, nearest));
}
inline void store_f16_partial(std::uint16_t* p, Vec16 x, int n) {
  std::uint16_t full[16];
  store_f16(full, x);
  __builtin_memcpy(p, full, 2 * static_cast<unsigned>(n));
}

inline __m256 widen_int8(const std::int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec16 load_int8(const std::int8_t* p) {
  return {widen_int8(p), widen_int8(p + 8)};
}

inline Vec16 add(Vec16 a, Vec16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec16 sub(Vec16 a, Vec16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec16 mul(Vec16 a, Vec16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec16 div(Vec16 a, Vec16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec16 max(Vec16 a, Vec16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec16 min(Vec16 a, Vec16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Mask16 less(Vec16 a, Vec16 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
inline Mask16 first(int n) {
  return {_mm256_castsi256_ps(lanes_below(n, 0)), _mm256_castsi256_ps(lanes_below(n, 8))};
}
inline Vec16 select(Mask16 condition, Vec16 yes, Vec16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, condition.low), _mm256_blendv_ps(no.high, yes.high, condition.high)};
}
inline std::uint32_t bits(Mask16 mask) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(mask.low)) |
         static_cast<std::uint32_t>(_mm256_movemask_ps(mask.high)) << 8;
}

inline float reduce_add(Vec16 x) {
  const __m256 a = _mm256_add_ps(x.low, x.high);                                        // i, i + 8
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));  // i, i + 4
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));                                  // i, i + 2
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float reduce_max(Vec16 x) {
  const __m256 a = _mm256_max_ps(x.low, x.high);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Unsigned times signed bytes: the sign of each key goes to the query. A pair of products is at most 2 * 127 * 127, so
// nothing saturates.
template <int ROWS>
inline void dot_eight_keys(const std::int8_t* keys, const std::int8_t* queries, std::int64_t stride,
                           __m256 (&dots)[ROWS]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[ROWS];
  for (int row = 0; row < ROWS; ++row) sums[row] = _mm256_setzero_si256();
  for (int j = 0; j < 8; ++j) {
    const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + 64 * j));
    const __m256i magnitude = _mm256_abs_epi8(key);
    for (int row = 0; row < ROWS; ++row) {
      std::int32_t four;
      __builtin_memcpy(&four, queries + row * stride + 4 * j, 4);
      const __m256i query = _mm256_sign_epi8(_mm256_set1_epi32(four), key);
      sums[row] = _mm256_add_epi32(sums[row], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, query), ones));
    }
  }
  for (int row = 0; row < ROWS; ++row) dots[row] = _mm256_cvtepi32_ps(sums[row]);
}

template <int ROWS>
inline void dot_keys(const std::int8_t* keys, const std::int8_t* queries, std::int64_t stride, const std::int32_t*,
                     Vec16 (&dots)[ROWS]) {
  __m256 low[ROWS], high[ROWS];
  dot_eight_keys(keys, queries, stride, low);
  dot_eight_keys(keys + 32, queries, stride, high);
  for (int row = 0; row < ROWS; ++row) dots[row] = {low[row], high[row]};
}

inline __m256 scale_by_power(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
inline Vec16 scale_by_power(Vec16 x, Vec16 n) {
  return {scale_by_power(x.low, n.low), scale_by_power(x.high, n.high)};
}

inline void transpose8(__m256 (&r)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// Row i of a 16 x 16 square becomes column i. Four squares of eight, the two off the diagonal changing places.
inline void transpose16(Vec16 (&s)[16]) {
  __m256 top_left[8], top_right[8], bottom_left[8], bottom_right[8];
  for (int i = 0; i < 8; ++i) {
    top_left[i] = s[i].low;
    top_right[i] = s[i].high;
    bottom_left[i] = s[i + 8].low;
    bottom_right[i] = s[i + 8].high;
  }
  transpose8(top_left);
  transpose8(top_right);
  transpose8(bottom_left);
  transpose8(bottom_right);
  for (int i = 0; i < 8; ++i) {
    s[i] = {top_left[i], bottom_left[i]};
    s[i + 8] = {top_right[i], bottom_right[i]};
  }
}

}  // namespace pronk::PRONK_ISA

#include "vec16_common.hpp"
