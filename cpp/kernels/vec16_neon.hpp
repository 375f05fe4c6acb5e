// Sixteen floats in four NEON registers. vec16_portable.hpp says what each operation means.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace pronk::PRONK_ISA {

struct Vec16 {
  float32x4_t v[4];
};

struct Mask16 {
  uint32x4_t m[4];  // all ones or all zeros in each lane
};

// 24 of the 32 registers accumulate: 6 rows of one Vec16.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 1;

inline Vec16 broadcast(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
inline Vec16 zero() {
  return broadcast(0.0f);
}
inline Vec16 load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
inline void store(float* p, const Vec16& x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
// NEON has no masked moves: the tail goes through the stack.
inline Vec16 load_partial(const float* p, int n) {
  float full[16] = {};
  __builtin_memcpy(full, p, 4 * static_cast<unsigned>(n));
  return load(full);
}
inline void store_partial(float* p, const Vec16& x, int n) {
  if (n == 16) return store(p, x);
  float full[16];
  store(full, x);
  __builtin_memcpy(p, full, 4 * static_cast<unsigned>(n));
}

inline Vec16 load_f16(const std::uint16_t* p) {
  const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(p)), high = vreinterpretq_f16_u16(vld1q_u16(p + 8));
  return {{vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
           vcvt_high_f32_f16(high)}};
}
inline Vec16 load_f16_partial(const std::uint16_t* p, int n) {
  std::uint16_t full[16] = {};
  __builtin_memcpy(full, p, 2 * static_cast<unsigned>(n));
  return load_f16(full);
}
inline Vec16 load_bf16(const std::uint16_t* p) {
  const uint16x8_t low = vld1q_u16(p), high = vld1q_u16(p + 8);
  return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
           vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)),
           vreinterpretq_f32_u32(vshll_high_n_u16(high, 16))}};
}
inline Vec16 load_bf16_partial(const std::uint16_t* p, int n) {
  std::uint16_t full[16] = {};
  __builtin_memcpy(full, p, 2 * static_cast<unsigned>(n));
  return load_bf16(full);
}
inline void store_f16(std::uint16_t* p, const Vec16& x) {
  for (int i = 0; i < 4; i += 2) {
    const float16x8_t halves = vcvt_high_f16_f32(vcvt_f16_f32(x.v[i]), x.v[i + 1]);
    vst1q_u16(p + 4 * i, vreinterpretq_u16_f16(halves));
  }
}
inline void store_f16_partial(std::uint16_t* p, const Vec16& x, int n) {
  std::uint16_t full[16];
  store_f16(full, x);
  __builtin_memcpy(p, full, 2 * static_cast<unsigned>(n));
}

inline Vec16 load_int8(const std::int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))}};
}

inline Vec16 add(const Vec16& a, const Vec16& b) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vaddq_f32(a.v[i], b.v[i]);
  return r;
}
inline Vec16 sub(const Vec16& a, const Vec16& b) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vsubq_f32(a.v[i], b.v[i]);
  return r;
}
inline Vec16 mul(const Vec16& a, const Vec16& b) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vmulq_f32(a.v[i], b.v[i]);
  return r;
}
inline Vec16 div(const Vec16& a, const Vec16& b) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vdivq_f32(a.v[i], b.v[i]);
  return r;
}
inline Vec16 fma(const Vec16& a, const Vec16& b, const Vec16& c) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return r;
}
inline Mask16 less(const Vec16& a, const Vec16& b) {
  Mask16 r;
  for (int i = 0; i < 4; ++i) r.m[i] = vcltq_f32(a.v[i], b.v[i]);
  return r;
}
inline Vec16 select(const Mask16& condition, const Vec16& yes, const Vec16& no) {
  Vec16 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vbslq_f32(condition.m[i], yes.v[i], no.v[i]);
  return r;
}
// Not vmaxq: it has other opinions on NaN and on zeros.
inline Vec16 max(const Vec16& a, const Vec16& b) {
  return select(less(b, a), a, b);
}
inline Vec16 min(const Vec16& a, const Vec16& b) {
  return select(less(a, b), a, b);
}
inline Mask16 first(int n) {
  constexpr std::int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask16 r;
  for (int i = 0; i < 4; ++i) r.m[i] = vcltq_s32(vld1q_s32(kLanes + 4 * i), vdupq_n_s32(n));
  return r;
}
inline std::uint32_t bits(const Mask16& mask) {
  constexpr std::uint32_t kBits[4] = {1, 2, 4, 8};
  uint32x4_t bit = vld1q_u32(kBits), all = vandq_u32(mask.m[0], bit);
  for (int i = 1; i < 4; ++i) {
    bit = vshlq_n_u32(bit, 4);
    all = vorrq_u32(all, vandq_u32(mask.m[i], bit));
  }
  return vaddvq_u32(all);
}

inline float reduce_add(const Vec16& x) {
  const float32x4_t a = vaddq_f32(x.v[0], x.v[2]), b = vaddq_f32(x.v[1], x.v[3]);  // i, i + 8
  const float32x4_t c = vaddq_f32(a, b);                                           // i, i + 4
  return vpadds_f32(vadd_f32(vget_low_f32(c), vget_high_f32(c)));                  // i, i + 2
}
inline float reduce_max(const Vec16& x) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.v[0], x.v[1]), vmaxnmq_f32(x.v[2], x.v[3])));
}

template <int ROWS>
inline void dot_keys(const std::int8_t* keys, const std::int8_t* queries, std::int64_t stride, const std::int32_t*,
                     Vec16 (&dots)[ROWS]) {
  int32x4_t sums[ROWS][4];
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < 4; ++i) sums[row][i] = vdupq_n_s32(0);
  }
  for (int j = 0; j < 8; ++j) {
    int8x16_t key[4];
    for (int i = 0; i < 4; ++i) key[i] = vld1q_s8(keys + 64 * j + 16 * i);
    for (int row = 0; row < ROWS; ++row) {
      std::int32_t four;
      __builtin_memcpy(&four, queries + row * stride + 4 * j, 4);
      const int8x16_t query = vreinterpretq_s8_s32(vdupq_n_s32(four));
      for (int i = 0; i < 4; ++i) sums[row][i] = vdotq_s32(sums[row][i], key[i], query);
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < 4; ++i) dots[row].v[i] = vcvtq_f32_s32(sums[row][i]);
  }
}

inline Vec16 scale_by_power(const Vec16& x, const Vec16& n) {
  const int32x4_t bias = vdupq_n_s32(127);
  Vec16 r;
  for (int i = 0; i < 4; ++i) {
    const int32x4_t whole = vcvtq_s32_f32(n.v[i]), half = vshrq_n_s32(whole, 1);
    const int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23);
    r.v[i] = vmulq_f32(vmulq_f32(x.v[i], vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
  }
  return r;
}

// Row i of a 16 x 16 square becomes column i, in squares of 4 x 4.
inline void transpose16(Vec16 (&s)[16]) {
  Vec16 t[16];
  for (int row = 0; row < 4; ++row) {
    for (int column = 0; column < 4; ++column) {
      const float32x4_t a = s[4 * row].v[column], b = s[4 * row + 1].v[column];
      const float32x4_t c = s[4 * row + 2].v[column], d = s[4 * row + 3].v[column];
      const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(a, b)),
                        ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
      const float64x2_t cd_even = vreinterpretq_f64_f32(vtrn1q_f32(c, d)),
                        cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
      t[4 * column].v[row] = vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even));
      t[4 * column + 1].v[row] = vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd));
      t[4 * column + 2].v[row] = vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even));
      t[4 * column + 3].v[row] = vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd));
    }
  }
  for (int i = 0; i < 16; ++i) s[i] = t[i];
}

}  // namespace pronk::PRONK_ISA

#include "vec16_common.hpp"
