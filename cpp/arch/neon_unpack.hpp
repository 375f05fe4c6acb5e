// Blocks of the file to vectors with NEON: one unpacker a type. A new type is one more struct here.
//
// The dot products of ARM take signed bytes, so values are what they mean, in their order, and no type has an offset:
//   K-quants, with a scale (and a min) for each kGroup (16 or 32) values:  w = d * scale * q - dmin * min
//   32-value types:                                                       w = d * q + m
#pragma once

#include <arm_neon.h>

#include "pronk/quants.hpp"

namespace pronk::PRONK_ISA {

// A block of 256, a block of 32.
using Values256 = int8x16_t[16];
using Values32 = int8x16_t[2];
// Of 16 groups of 16 values, of 8 groups of 32.
using Groups16 = int16x8_t[2];
using Groups32 = int16x8_t[1];

inline float half(Half h) {
  __fp16 value;
  __builtin_memcpy(&value, h.bytes, 2);
  return value;
}

inline std::uint32_t load_u32(const void* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}
inline std::uint64_t load_u64(const void* p) {
  std::uint64_t word;
  __builtin_memcpy(&word, p, 8);
  return word;
}

// MXFP4's scales, 2^(e - 128) for e = 0 to 255: a float's exponent field, or the mantissa where they are subnormal.
inline float32x4_t powers_of_two(uint32x4_t e) {
  const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
  const uint32x4_t subnormal = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
  return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), subnormal, normal));
}

// A 32-value block's scale.
template <class Block>
inline float block_scale(const Block& block) {
  if constexpr (__is_same(Block, BlockMXFP4)) {
    return vgetq_lane_f32(powers_of_two(vdupq_n_u32(block.e)), 0);
  } else {
    return half(block.d);
  }
}

inline uint8x16_t low_nibbles(uint8x16_t v) {
  return vandq_u8(v, vdupq_n_u8(15));
}
inline uint8x16_t high_nibbles(uint8x16_t v) {
  return vshrq_n_u8(v, 4);
}
inline int8x16_t minus(uint8x16_t v, std::uint8_t offset) {
  return vreinterpretq_s8_u8(vsubq_u8(v, vdupq_n_u8(offset)));
}

// The fifth bits of 16 values, from two bytes: 16 in each byte whose bit is set.
inline uint8x16_t fifth_bits(const std::uint8_t* two) {
  const uint8x16_t bytes = vcombine_u8(vdup_n_u8(two[0]), vdup_n_u8(two[1]));
  const uint8x16_t bit_of = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  return vandq_u8(vtstq_u8(bytes, bit_of), vdupq_n_u8(16));
}

// 16 bytes of two nibbles: the low ones are values 0..15, the high ones 16..31. kOffset: w = q - kOffset.
template <class B, int kOffset, bool kHasMins>
struct UnpackNibbles {
  using Block = B;
  static constexpr int kValues = 32;
  static constexpr bool kMins = kHasMins;
  static void values(const Block& block, Values32& q) {
    const uint8x16_t bytes = vld1q_u8(block.q);
    q[0] = minus(low_nibbles(bytes), kOffset);
    q[1] = minus(high_nibbles(bytes), kOffset);
  }
};
using UnpackQ4_0 = UnpackNibbles<BlockQ4_0, 8, false>;
using UnpackQ4_1 = UnpackNibbles<BlockQ4_1, 0, true>;

// The same with a fifth bit.
template <class B, int kOffset, bool kHasMins>
struct UnpackFiveBits {
  using Block = B;
  static constexpr int kValues = 32;
  static constexpr bool kMins = kHasMins;
  static void values(const Block& block, Values32& q) {
    const uint8x16_t bytes = vld1q_u8(block.q);
    q[0] = minus(vorrq_u8(low_nibbles(bytes), fifth_bits(block.high)), kOffset);
    q[1] = minus(vorrq_u8(high_nibbles(bytes), fifth_bits(block.high + 2)), kOffset);
  }
};
using UnpackQ5_0 = UnpackFiveBits<BlockQ5_0, 16, false>;
using UnpackQ5_1 = UnpackFiveBits<BlockQ5_1, 0, true>;

struct UnpackQ8_0 {
  using Block = BlockQ8_0;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values32& q) {
    q[0] = vld1q_s8(block.q);
    q[1] = vld1q_s8(block.q + 16);
  }
};

// d and dmin, which lie side by side.
inline float32x2_t two_halves(const Half& first) {
  return vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u32(vdup_n_u32(load_u32(&first)))));
}
// d alone.
inline float32x2_t one_float(float d) {
  return vset_lane_f32(d, vdup_n_f32(0.0f), 0);
}

// Eight bytes as int16.
inline int16x8_t widen(std::uint64_t bytes) {
  return vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes)));
}
inline void widen(uint8x16_t bytes, Groups16& out) {
  out[0] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
  out[1] = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
}

// The scales and mins of Q4_K and Q5_K (unpack_scale in quants/half.hpp shows the packing), four groups in a 32-bit
// word.
inline void unpack_6_bits(const std::uint8_t* packed, int16x8_t& scales, int16x8_t& mins) {
  const std::uint64_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
  const std::uint64_t high_scales = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
  const std::uint64_t high_mins = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
  scales = widen((a & 0x3f3f3f3f) | high_scales << 32);
  mins = widen((b & 0x3f3f3f3f) | high_mins << 32);
}

struct UnpackQ4_K {
  using Block = BlockQ4_K;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = true;
  static void values(const Block& block, Values256& q) {
    for (int i = 0; i < 8; ++i) {  // 32 bytes hold two groups
      const uint8x16_t bytes = vld1q_u8(block.q + 16 * i);
      const int at = i / 2 * 4 + i % 2;
      q[at] = vreinterpretq_s8_u8(low_nibbles(bytes));
      q[at + 2] = vreinterpretq_s8_u8(high_nibbles(bytes));
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32& min) {
    unpack_6_bits(block.scales, scale[0], min[0]);
  }
  static float32x2_t floats(const Block& block) { return two_halves(block.d); }
};

struct UnpackQ5_K {
  using Block = BlockQ5_K;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = true;
  static void values(const Block& block, Values256& q) {
    const uint8x16_t high[2] = {vld1q_u8(block.high), vld1q_u8(block.high + 16)};
    const uint8x16_t sixteen = vdupq_n_u8(16);
    for (int i = 0; i < 8; ++i) {
      const uint8x16_t bytes = vld1q_u8(block.q + 16 * i);
      const int pair = i / 2, at = pair * 4 + i % 2;
      const auto fifth = [&](int group) {
        return vandq_u8(vtstq_u8(high[i % 2], vdupq_n_u8(static_cast<std::uint8_t>(1 << group))), sixteen);
      };
      q[at] = vreinterpretq_s8_u8(vorrq_u8(low_nibbles(bytes), fifth(2 * pair)));
      q[at + 2] = vreinterpretq_s8_u8(vorrq_u8(high_nibbles(bytes), fifth(2 * pair + 1)));
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32& min) {
    unpack_6_bits(block.scales, scale[0], min[0]);
  }
  static float32x2_t floats(const Block& block) { return two_halves(block.d); }
};

// Two bits of each of 256 values, 32 bytes for 128 of them.
inline void unpack_two_bits(const std::uint8_t* bytes, uint8x16_t (&u)[16]) {
  const uint8x16_t mask = vdupq_n_u8(3);
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t four = vld1q_u8(bytes + 16 * i);
    const int at = i / 2 * 8 + i % 2;
    u[at] = vandq_u8(four, mask);
    u[at + 2] = vandq_u8(vshrq_n_u8(four, 2), mask);
    u[at + 4] = vandq_u8(vshrq_n_u8(four, 4), mask);
    u[at + 6] = vshrq_n_u8(four, 6);
  }
}

struct UnpackQ2_K {
  using Block = BlockQ2_K;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = true;
  static void values(const Block& block, Values256& q) {
    uint8x16_t u[16];
    unpack_two_bits(block.q, u);
    for (int i = 0; i < 16; ++i) q[i] = vreinterpretq_s8_u8(u[i]);
  }
  static void scales(const Block& block, Groups16& scale, Groups16& min) {
    const uint8x16_t both = vld1q_u8(block.scales);
    widen(low_nibbles(both), scale);
    widen(high_nibbles(both), min);
  }
  static float32x2_t floats(const Block& block) { return two_halves(block.d); }
};

struct UnpackQ3_K {
  using Block = BlockQ3_K;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    uint8x16_t u[16];
    unpack_two_bits(block.low, u);
    const uint8x16_t high[2] = {vld1q_u8(block.high), vld1q_u8(block.high + 16)};
    for (int i = 0; i < 16; ++i) {  // less four where the third bit is not set
      const uint8x16_t third = vtstq_u8(high[i % 2], vdupq_n_u8(static_cast<std::uint8_t>(1 << i / 2)));
      q[i] = vreinterpretq_s8_u8(vsubq_u8(u[i], vbicq_u8(vdupq_n_u8(4), third)));
    }
  }
  static void scales(const Block& block, Groups16& scale, Groups16&) {
    const std::uint64_t low = load_u64(block.scales), top = load_u32(block.scales + 8);
    // Eight scales of four low bits, and for each four of them two bits of each byte of `top`.
    const auto join = [&](std::uint64_t four, int k) {
      const std::uint64_t high = (top >> 2 * k & 0x03030303) | (top >> (2 * k + 2) & 0x03030303) << 32;
      return vsubq_s16(widen((four & 0x0f0f0f0f0f0f0f0f) | high << 4), vdupq_n_s16(32));
    };
    scale[0] = join(low, 0);
    scale[1] = join(low >> 4, 2);
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d)); }
};

struct UnpackQ6_K {
  using Block = BlockQ6_K;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int i = 0; i < 4; ++i) {  // two for each half of 128 values
      const std::uint8_t* low = block.low + i / 2 * 64 + i % 2 * 16;
      const uint8x16_t low_a = vld1q_u8(low), low_b = vld1q_u8(low + 32);
      const uint8x16_t high = vld1q_u8(block.high + 16 * i);
      const int at = i / 2 * 8 + i % 2;
      q[at] = join(low_nibbles(low_a), vshlq_n_u8(high, 4));
      q[at + 2] = join(low_nibbles(low_b), vshlq_n_u8(high, 2));
      q[at + 4] = join(high_nibbles(low_a), high);
      q[at + 6] = join(high_nibbles(low_b), vshrq_n_u8(high, 2));
    }
  }
  static void scales(const Block& block, Groups16& scale, Groups16&) {
    const int8x16_t bytes = vld1q_s8(block.scales);
    scale[0] = vmovl_s8(vget_low_s8(bytes));
    scale[1] = vmovl_high_s8(bytes);
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d)); }

 private:
  // Four low bits, and two more that stand at bits 4 and 5 of `high` (the rest of it is the neighbours').
  static int8x16_t join(uint8x16_t low, uint8x16_t high) {
    return minus(vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30))), 32);
  }
};

}  // namespace pronk::PRONK_ISA
