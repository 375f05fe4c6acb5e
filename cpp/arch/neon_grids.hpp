// Unpackers with NEON of the types whose values come from tables, and of those with three levels.
//
// NEON has no gathers: a grid's entry is read from the L1 cache, a load each.
#pragma once

#include "arch/neon_unpack.hpp"
#include "quants/grids.hpp"

namespace pronk::PRONK_ISA {

inline std::uint32_t load_u16(const void* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, 2);
  return word;
}

// 2 * scale + 1
inline int16x8_t odd(int16x8_t scale) {
  return vaddq_s16(vaddq_s16(scale, scale), vdupq_n_s16(1));
}

// The two halves of each of eight bytes, low half first.
inline uint8x16_t split_bytes(std::uint64_t bytes) {
  const uint8x8_t both = vcreate_u8(bytes), low = vand_u8(both, vdup_n_u8(15)), high = vshr_n_u8(both, 4);
  return vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high));
}

// Lane i of `words`, moved right by steps[i].
inline uint16x8_t shift_right(uint16x8_t words, const std::int16_t (&steps)[8]) {
  return vshlq_u16(words, vnegq_s16(vld1q_s16(steps)));
}

// --- 4 bits through a table of 16 ---

inline void look_up_nibbles(const std::int8_t* table, const std::uint8_t* bytes, int8x16_t* q) {
  const int8x16_t values = vld1q_s8(table);
  const uint8x16_t both = vld1q_u8(bytes);
  q[0] = vqtbl1q_s8(values, low_nibbles(both));
  q[1] = vqtbl1q_s8(values, high_nibbles(both));
}

struct UnpackIQ4_NL {
  using Block = BlockIQ4_NL;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values32& q) { look_up_nibbles(kIQ4Values, block.q, q); }
};

struct UnpackMXFP4 {
  using Block = BlockMXFP4;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values32& q) { look_up_nibbles(kMXFP4Values, block.q, q); }
};

struct UnpackIQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int g = 0; g < 8; ++g) look_up_nibbles(kIQ4Values, block.q + 16 * g, q + 2 * g);
  }
  static void scales(const Block& block, Groups32& scale, Groups32&) {
    constexpr std::int16_t kSteps[8] = {0, 2, 4, 6, 8, 10, 12, 14};
    const uint16x8_t top = vdupq_n_u16(static_cast<std::uint16_t>(load_u16(block.scales_high)));
    const uint16x8_t high = vandq_u16(shift_right(top, kSteps), vdupq_n_u16(3));
    const uint16x8_t low = vmovl_u8(vget_low_u8(split_bytes(load_u32(block.scales_low))));
    const uint16x8_t both = vorrq_u16(low, vshlq_n_u16(high, 4));
    scale[0] = vsubq_s16(vreinterpretq_s16_u16(both), vdupq_n_s16(32));
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d)); }
};

// --- signs ---

// Magnitudes with the signs of two bytes: bit j of byte i says that value 8i + j is negative.
inline int8x16_t with_signs(int8x16_t magnitudes, std::uint8_t first, std::uint8_t second) {
  const uint8x16_t bytes = vcombine_u8(vdup_n_u8(first), vdup_n_u8(second));
  const uint8x16_t bit_of = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  const int8x16_t negative = vreinterpretq_s8_u8(vtstq_u8(bytes, bit_of));  // -1 or 0
  return vsubq_s8(veorq_s8(magnitudes, negative), negative);
}

// The signs of eight e of four, from a word of four sign indices (and a scale above them).
inline std::uint8_t signs_of(std::uint32_t word, int e) {
  return kSigns[word >> 7 * e & 127];
}

// The scales of eight such words, `bytes` apart: their top four bits.
inline int16x8_t scales_of_words(const std::uint8_t* words, int bytes) {
  std::uint64_t scales = 0;
  for (int g = 0; g < 8; ++g) scales |= static_cast<std::uint64_t>(words[g * bytes + 3] >> 4) << 8 * g;
  return odd(widen(scales));
}

// --- grids of four values ---

// index(i): that of four i of four.
template <class F>
inline int8x16_t look_up_fours(const std::uint32_t* grid, const F& index) {
  const std::uint64_t first = grid[index(0)] | static_cast<std::uint64_t>(grid[index(1)]) << 32;
  const std::uint64_t second = grid[index(2)] | static_cast<std::uint64_t>(grid[index(3)]) << 32;
  return vcombine_s8(vcreate_s8(first), vcreate_s8(second));
}

struct UnpackIQ3_S {
  using Block = BlockIQ3_S;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const unsigned ninth = block.high[n / 2] >> n % 2 * 4;
      const auto index = [&](int i) { return block.q[4 * n + i] | (ninth << (8 - i) & 256); };
      q[n] = with_signs(look_up_fours(kGridIQ3_S.entry, index), block.signs[2 * n], block.signs[2 * n + 1]);
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32&) {
    const uint8x16_t each = split_bytes(load_u32(block.scales));
    scale[0] = odd(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(each))));
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d)); }
};

struct UnpackIQ3_XXS {
  using Block = BlockIQ3_XXS;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const std::uint32_t word = load_u32(block.signs[n / 2]);
      const int e = n % 2 * 2;
      const auto index = [&](int i) { return block.q[4 * n + i]; };
      q[n] = with_signs(look_up_fours(kGridIQ3_XXS.entry, index), signs_of(word, e), signs_of(word, e + 1));
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32&) {
    scale[0] = scales_of_words(block.signs[0], sizeof(block.signs[0]));
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d) * 0.25f); }
};

// --- grids of eight values ---

inline int8x16_t look_up_eights(const std::uint64_t* grid, std::uint32_t first, std::uint32_t second) {
  return vcombine_s8(vcreate_s8(grid[first]), vcreate_s8(grid[second]));
}

struct UnpackIQ2_XXS {
  using Block = BlockIQ2_XXS;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const auto& group = block.groups[n / 2];
      const std::uint32_t word = load_u32(group.signs);
      const int e = n % 2 * 2;
      const int8x16_t magnitudes = look_up_eights(kGridIQ2_XXS.entry, group.q[e], group.q[e + 1]);
      q[n] = with_signs(magnitudes, signs_of(word, e), signs_of(word, e + 1));
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32&) {
    scale[0] = scales_of_words(block.groups[0].signs, sizeof(block.groups[0]));
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d) * 0.125f); }
};

// 16 scales of four bits, scale 2i in the low half of byte i.
inline void nibble_scales(const std::uint8_t* packed, Groups16& scale) {
  widen(split_bytes(load_u64(packed)), scale);
  for (int16x8_t& eight : scale) eight = odd(eight);
}

struct UnpackIQ2_XS {
  using Block = BlockIQ2_XS;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const std::uint32_t a = load_u16(block.q[2 * n]), b = load_u16(block.q[2 * n + 1]);
      q[n] = with_signs(look_up_eights(kGridIQ2_XS.entry, a & 511, b & 511), kSigns[a >> 9], kSigns[b >> 9]);
    }
  }
  static void scales(const Block& block, Groups16& scale, Groups16&) { nibble_scales(block.scales, scale); }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d) * 0.125f); }
};

struct UnpackIQ2_S {
  using Block = BlockIQ2_S;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const std::uint32_t high = block.high[n / 2] >> n % 2 * 4;
      const std::uint32_t first = block.q[2 * n] | (high << 8 & 0x300),
                          second = block.q[2 * n + 1] | (high << 6 & 0x300);
      q[n] = with_signs(look_up_eights(kGridIQ2_S.entry, first, second), block.signs[2 * n], block.signs[2 * n + 1]);
    }
  }
  static void scales(const Block& block, Groups16& scale, Groups16&) { nibble_scales(block.scales, scale); }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d) * 0.125f); }
};

// --- IQ1: -8, 0 or 8, and one more or less ---

// Two eights by the low bytes of their indices and, in `high`, a nibble for each: three bits more of the index, and the
// bit that says minus one.
inline int8x16_t iq1_values(const std::uint8_t* low, std::uint32_t high) {
  const int8x16_t levels = look_up_eights(kGridIQ1.entry, low[0] | (high & 7) << 8, low[1] | (high >> 4 & 7) << 8);
  const auto one = [&](std::uint32_t bit) { return vdup_n_s8((high & bit) != 0 ? -1 : 1); };
  return vaddq_s8(levels, vcombine_s8(one(0x08), one(0x80)));
}

struct UnpackIQ1_S {
  using Block = BlockIQ1_S;
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) {
      const std::uint32_t word = load_u16(block.high[n / 2]), sign = word >> 15, bits = word >> n % 2 * 6;
      q[n] = iq1_values(block.q + 2 * n, (bits & 7) | (bits & 0x38) << 1 | sign * 0x88);
    }
  }
  static void scales(const Block& block, Groups32& scale, Groups32&) {
    uint16x8_t words;
    __builtin_memcpy(&words, block.high, sizeof(words));
    scale[0] = odd(vreinterpretq_s16_u16(vandq_u16(vshrq_n_u16(words, 12), vdupq_n_u16(7))));
  }
  static float32x2_t floats(const Block& block) { return one_float(half(block.d) * 0.125f); }
};

struct UnpackIQ1_M {
  using Block = BlockIQ1_M;
  static constexpr int kValues = 256, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, Values256& q) {
    for (int n = 0; n < 16; ++n) q[n] = iq1_values(block.q + 2 * n, block.high[n]);
  }
  static void scales(const Block& block, Groups16& scale, Groups16&) {
    constexpr std::int16_t kSteps[8] = {0, 3, 6, 9, 0, 3, 6, 9};
    for (int i = 0; i < 2; ++i) {  // a word holds four scales
      const auto first = static_cast<std::uint16_t>(load_u16(block.scales[2 * i]));
      const auto second = static_cast<std::uint16_t>(load_u16(block.scales[2 * i + 1]));
      const uint16x8_t words = vcombine_u16(vdup_n_u16(first), vdup_n_u16(second));
      scale[i] = odd(vreinterpretq_s16_u16(vandq_u16(shift_right(words, kSteps), vdupq_n_u16(7))));
    }
  }
  static float32x2_t floats(const Block& block) {
    std::uint32_t d = 0;
    for (int i = 0; i < 4; ++i) d |= load_u16(block.scales[i]) >> 12 << 4 * i;
    const Half whole = {{static_cast<std::uint8_t>(d), static_cast<std::uint8_t>(d >> 8)}};
    return one_float(half(whole) * 0.125f);
  }
};

// --- three levels ---

struct UnpackTernary {
  static constexpr int kValues = 256, kGroup = 32;
  static constexpr bool kMins = false;
  template <class Block>
  static void scales(const Block&, Groups32& scale, Groups32&) {
    scale[0] = vdupq_n_s16(1);
  }
  template <class Block>
  static float32x2_t floats(const Block& block) {
    return one_float(half(block.d));
  }
};

struct UnpackTQ1_0 : UnpackTernary {
  using Block = BlockTQ1_0;
  static void values(const Block& block, Values256& q) {
    uint8x16_t fraction[3];
    for (int i = 0; i < 3; ++i) fraction[i] = vld1q_u8(block.q + 16 * i);
    for (int j = 0; j < 5; ++j) {
      q[2 * j] = first_digits(fraction[0]);
      q[2 * j + 1] = first_digits(fraction[1]);
      q[10 + j] = first_digits(fraction[2]);
      for (uint8x16_t& each : fraction) each = vmulq_u8(each, vdupq_n_u8(3));
    }
    constexpr std::uint8_t kPowers[16] = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
    const uint8x16_t last = vreinterpretq_u8_u32(vdupq_n_u32(load_u32(block.high)));
    q[15] = first_digits(vmulq_u8(last, vld1q_u8(kPowers)));
  }

 private:
  // 3 * v / 256 - 1: 0 from 86 on, 1 from 171 on. Comparisons give -1 for yes.
  static int8x16_t first_digits(uint8x16_t v) {
    const uint8x16_t one = vcgeq_u8(v, vdupq_n_u8(86)), two = vcgeq_u8(v, vdupq_n_u8(171));
    return vreinterpretq_s8_u8(vsubq_u8(vdupq_n_u8(255), vaddq_u8(one, two)));
  }
};

struct UnpackTQ2_0 : UnpackTernary {
  using Block = BlockTQ2_0;
  static void values(const Block& block, Values256& q) {
    uint8x16_t u[16];
    unpack_two_bits(block.q, u);
    for (int i = 0; i < 16; ++i) q[i] = minus(u[i], 1);
  }
};

}  // namespace pronk::PRONK_ISA
