// Sixteen floats in plain C++: the reference that every other Vec16 equals bit for bit.
//
// Vec16 has sixteen lanes on every instruction set (one zmm, two ymm, or this array), and every operation is either one
// IEEE operation a lane or a reduction along one fixed tree. Kernels written over it therefore give the same bits
// everywhere. That holds only without the compiler's own ideas: these files are compiled with -ffp-contract=off.
// The loops below have a constant length and no branches, so that compilers turn them into NEON or SSE.
//
// Only built-ins and functions of this namespace are used: an inline function of the standard library, compiled
// here for one instruction set, could be the copy that the linker keeps for all of them.
#pragma once

#include <cstdint>

namespace pronk::PRONK_ISA {

struct Vec16 {
  alignas(64) float lane[16];
};

// A condition for each lane.
struct Mask16 {
  bool lane[16];
};

// How many query rows and how many Vec16 columns of a product fit in this machine's registers (see gemm_tile).
constexpr int kTileRows = 2;
constexpr int kTileVecs = 1;

#define PRONK_EACH_LANE for (int i = 0; i < 16; ++i)

inline Vec16 zero() {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = 0.0f;
  return r;
}

inline Vec16 broadcast(float x) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = x;
  return r;
}

inline Vec16 load(const float* p) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = p[i];
  return r;
}

// The first n (0 to 16) lanes from memory, zeros past them; nothing past p[n) is touched.
inline Vec16 load_partial(const float* p, int n) {
  Vec16 r = zero();
  for (int i = 0; i < n; ++i) r.lane[i] = p[i];
  return r;
}

inline void store(float* p, const Vec16& x) {
  PRONK_EACH_LANE p[i] = x.lane[i];
}

inline void store_partial(float* p, const Vec16& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.lane[i];
}

// float16 -> float: the exponent is moved by multiplying with 2^112, which also makes denormals normal.
inline float f16_to_float(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t shifted = magnitude << 13;
  float value;
  __builtin_memcpy(&value, &shifted, 4);
  value *= 0x1p112f;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN keep the top exponent
  bits |= magnitude > 0x7c00u ? 0x00400000u : 0u;   // a signalling NaN becomes a quiet one, as in hardware
  bits |= static_cast<std::uint32_t>(half & 0x8000u) << 16;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// float -> float16, to nearest, ties to even.
inline std::uint16_t float_to_f16(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the result is denormal: adding 0.5 lets the adder itself round at the denormal's last bit.
  float small;
  __builtin_memcpy(&small, &magnitude, 4);
  small += 0.5f;
  std::uint32_t denormal;
  __builtin_memcpy(&denormal, &small, 4);
  denormal -= 0x3f000000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  std::uint32_t half = magnitude < 0x38800000u ? denormal : normal;
  half = magnitude >= 0x47800000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? nan : half;
  return static_cast<std::uint16_t>(half | sign);
}

inline Vec16 load_f16(const std::uint16_t* p) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = f16_to_float(p[i]);
  return r;
}

inline Vec16 load_f16_partial(const std::uint16_t* p, int n) {
  Vec16 r = zero();
  for (int i = 0; i < n; ++i) r.lane[i] = f16_to_float(p[i]);
  return r;
}

inline Vec16 load_bf16(const std::uint16_t* p) {
  Vec16 r;
  PRONK_EACH_LANE {
    const std::uint32_t bits = static_cast<std::uint32_t>(p[i]) << 16;
    __builtin_memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}

inline Vec16 load_bf16_partial(const std::uint16_t* p, int n) {
  std::uint16_t full[16] = {};
  for (int i = 0; i < n; ++i) full[i] = p[i];
  return load_bf16(full);
}

inline void store_f16(std::uint16_t* p, const Vec16& x) {
  PRONK_EACH_LANE p[i] = float_to_f16(x.lane[i]);
}

inline void store_f16_partial(std::uint16_t* p, const Vec16& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = float_to_f16(x.lane[i]);
}

inline Vec16 load_int8(const std::int8_t* p) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = static_cast<float>(p[i]);
  return r;
}

inline Vec16 add(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] + b.lane[i];
  return r;
}

inline Vec16 sub(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] - b.lane[i];
  return r;
}

inline Vec16 mul(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] * b.lane[i];
  return r;
}

inline Vec16 div(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] / b.lane[i];
  return r;
}

// a * b + c, rounded once. Where this is no instruction it is a call of the C library: slow, and still the same bits.
inline Vec16 fma(const Vec16& a, const Vec16& b, const Vec16& c) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return r;
}

// As x86 defines them: where a lane of either is NaN, or both are zero, the result is b's.
inline Vec16 max(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return r;
}

inline Vec16 min(const Vec16& a, const Vec16& b) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return r;
}

inline Mask16 less(const Vec16& a, const Vec16& b) {
  Mask16 r;
  PRONK_EACH_LANE r.lane[i] = a.lane[i] < b.lane[i];
  return r;
}

// The lanes 0 .. n-1.
inline Mask16 first(int n) {
  Mask16 r;
  PRONK_EACH_LANE r.lane[i] = i < n;
  return r;
}

inline Vec16 select(const Mask16& condition, const Vec16& yes, const Vec16& no) {
  Vec16 r;
  PRONK_EACH_LANE r.lane[i] = condition.lane[i] ? yes.lane[i] : no.lane[i];
  return r;
}

// One bit a lane, lane 0 lowest.
inline std::uint32_t bits(const Mask16& mask) {
  std::uint32_t r = 0;
  PRONK_EACH_LANE r |= static_cast<std::uint32_t>(mask.lane[i]) << i;
  return r;
}

// The tree that all instruction sets share: lane i with i + 8, then i + 4, i + 2, i + 1.
inline float reduce_add(const Vec16& x) {
  float a[8], b[4];
  for (int i = 0; i < 8; ++i) a[i] = x.lane[i] + x.lane[i + 8];
  for (int i = 0; i < 4; ++i) b[i] = a[i] + a[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
}

inline float reduce_max(const Vec16& x) {
  float r = x.lane[0];
  for (int i = 1; i < 16; ++i) r = x.lane[i] > r ? x.lane[i] : r;
  return r;
}

// The dot products of 32 int8 of each row of `queries` (rows are `stride` apart) with those of sixteen keys, a key a
// lane: whole numbers of at most 32 * 127 * 127, which a float holds exactly. keys[8][16][4]: four values of each key
// at a time, none of them -128. starts, rows stride / 32 apart: -128 times the sum of the row's 32, for those who
// multiply with keys + 128.
template <int ROWS>
inline void dot_keys(const std::int8_t* keys, const std::int8_t* queries, std::int64_t stride, const std::int32_t*,
                     Vec16 (&dots)[ROWS]) {
  for (int row = 0; row < ROWS; ++row) {
    std::int32_t sums[16] = {};
    for (int j = 0; j < 8; ++j) {
      const std::int8_t* query = queries + row * stride + 4 * j;
      PRONK_EACH_LANE {
        const std::int8_t* key = keys + 64 * j + 4 * i;
        sums[i] += key[0] * query[0] + key[1] * query[1] + key[2] * query[2] + key[3] * query[3];
      }
    }
    PRONK_EACH_LANE dots[row].lane[i] = static_cast<float>(sums[i]);
  }
}

// x * 2^n for whole n in [-126, 128], in two factors because 2^128 is no float.
inline Vec16 scale_by_power(const Vec16& x, const Vec16& n) {
  Vec16 r;
  PRONK_EACH_LANE {
    const float aligned = n.lane[i] + 12582912.0f;  // 1.5 * 2^23: the whole number now lies in the lowest bits
    std::int32_t whole;
    __builtin_memcpy(&whole, &aligned, 4);
    whole -= 0x4b400000;
    const std::int32_t half = whole >> 1;
    const std::uint32_t first_bits = static_cast<std::uint32_t>(half + 127) << 23;
    const std::uint32_t second_bits = static_cast<std::uint32_t>(whole - half + 127) << 23;
    float first_power, second_power;
    __builtin_memcpy(&first_power, &first_bits, 4);
    __builtin_memcpy(&second_power, &second_bits, 4);
    r.lane[i] = x.lane[i] * first_power * second_power;
  }
  return r;
}

#undef PRONK_EACH_LANE

}  // namespace pronk::PRONK_ISA

#include "vec16_common.hpp"
