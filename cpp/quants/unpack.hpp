// Blocks of the types of few bits, and of those with tables, as whole numbers and their scales: the readable reference.
// The decoder and the portable kernels both use it (compiled for any CPU, so that they may share these functions).
#pragma once

#include <bit>
#include <cstdint>

#include "quants/grids.hpp"
#include "quants/half.hpp"

namespace pronk {

inline std::uint16_t word_16(const std::uint8_t* p) {
  return static_cast<std::uint16_t>(p[0] | p[1] << 8);
}

inline std::uint32_t word_32(const std::uint8_t* p) {
  return word_16(p) | static_cast<std::uint32_t>(word_16(p + 2)) << 16;
}

// The scales of group g, of 32 values.
inline void set_scale_32(Block256& out, int g, int scale) {
  out.scale[2 * g] = out.scale[2 * g + 1] = static_cast<std::int16_t>(scale);
}

// Nibble i of packed scales.
inline int nibble(const std::uint8_t* packed, int i) {
  return packed[i / 2] >> i % 2 * 4 & 15;
}

// A grid's values, all with the sign bits given.
template <class Word>
inline void put(Word entry, int signs, std::int8_t* q) {
  for (unsigned j = 0; j < sizeof(Word); ++j) {
    const auto value = static_cast<std::int8_t>(entry >> 8 * j);
    q[j] = static_cast<std::int8_t>(signs >> j & 1 ? -value : value);
  }
}

// --- 2 and 3 bits ---

// Two bits of each of 256 values: 32 bytes for 128 of them.
inline int two_bits(const std::uint8_t* q, int i) {
  return q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

inline void unpack(const BlockQ2_K& in, Block256& out) {
  out.d = half_to_float(in.d);
  out.dmin = half_to_float(in.dmin);
  for (int g = 0; g < 16; ++g) {
    out.scale[g] = in.scales[g] & 15;
    out.min[g] = in.scales[g] >> 4;
  }
  for (int i = 0; i < 256; ++i) out.q[i] = static_cast<std::int8_t>(two_bits(in.q, i));
}

inline void unpack(const BlockQ3_K& in, Block256& out) {
  out.d = half_to_float(in.d);
  for (int g = 0; g < 16; ++g) {
    const int low = in.scales[g % 8] >> g / 8 * 4 & 15, high = in.scales[8 + g % 4] >> g / 4 * 2 & 3;
    out.scale[g] = static_cast<std::int16_t>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int high = in.high[i % 32] >> i / 32 & 1;
    out.q[i] = static_cast<std::int8_t>((two_bits(in.low, i) | high << 2) - 4);
  }
}

// --- 4 bits, through a table ---

// 16 bytes of two nibbles: the low ones are values 0..15, the high ones 16..31.
inline void look_up_nibbles(const std::uint8_t* q, const std::int8_t* table, std::int8_t* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = table[q[i] & 15];
    out[i + 16] = table[q[i] >> 4];
  }
}

inline void unpack(const BlockIQ4_NL& in, Block32& out) {
  out.d = half_to_float(in.d);
  look_up_nibbles(in.q, kIQ4Values, out.q);
}

inline void unpack(const BlockMXFP4& in, Block32& out) {
  // 2^(e - 128); the two smallest are subnormal.
  out.d = std::bit_cast<float>(in.e < 2 ? 0x00200000u << in.e : static_cast<std::uint32_t>(in.e - 1) << 23);
  look_up_nibbles(in.q, kMXFP4Values, out.q);
}

inline void unpack(const BlockIQ4_XS& in, Block256& out) {
  out.d = half_to_float(in.d);
  for (int g = 0; g < 8; ++g) {
    const int high = word_16(in.scales_high) >> 2 * g & 3;
    set_scale_32(out, g, (nibble(in.scales_low, g) | high << 4) - 32);
    look_up_nibbles(in.q + 16 * g, kIQ4Values, out.q + 32 * g);
  }
}

// --- grids of four values ---

inline void unpack(const BlockIQ3_S& in, Block256& out) {
  out.d = half_to_float(in.d);
  for (int g = 0; g < 8; ++g) set_scale_32(out, g, 2 * nibble(in.scales, g) + 1);
  for (int i = 0; i < 64; ++i) {
    const int index = in.q[i] | (in.high[i / 8] >> i % 8 & 1) << 8;
    put(kGridIQ3_S.entry[index], in.signs[i / 2] >> i % 2 * 4, out.q + 4 * i);
  }
}

// The signs of eight e of four, from a word of four sign indices and a scale.
inline int signs_of(std::uint32_t word, int e) {
  return kSigns[word >> 7 * e & 127];
}

inline void unpack(const BlockIQ3_XXS& in, Block256& out) {
  out.d = half_to_float(in.d) * 0.25f;
  for (int g = 0; g < 8; ++g) {
    const std::uint32_t word = word_32(in.signs[g]);
    set_scale_32(out, g, static_cast<int>(2 * (word >> 28) + 1));
    for (int i = 0; i < 8; ++i) {
      put(kGridIQ3_XXS.entry[in.q[8 * g + i]], signs_of(word, i / 2) >> i % 2 * 4, out.q + 32 * g + 4 * i);
    }
  }
}

// --- grids of eight values ---

inline void unpack(const BlockIQ2_XXS& in, Block256& out) {
  out.d = half_to_float(in.d) * 0.125f;
  for (int g = 0; g < 8; ++g) {
    const std::uint32_t word = word_32(in.groups[g].signs);
    set_scale_32(out, g, static_cast<int>(2 * (word >> 28) + 1));
    for (int e = 0; e < 4; ++e) {
      put(kGridIQ2_XXS.entry[in.groups[g].q[e]], signs_of(word, e), out.q + 32 * g + 8 * e);
    }
  }
}

inline void unpack(const BlockIQ2_XS& in, Block256& out) {
  out.d = half_to_float(in.d) * 0.125f;
  for (int g = 0; g < 16; ++g) out.scale[g] = static_cast<std::int16_t>(2 * nibble(in.scales, g) + 1);
  for (int e = 0; e < 32; ++e) {
    const int word = word_16(in.q[e]);
    put(kGridIQ2_XS.entry[word & 511], kSigns[word >> 9], out.q + 8 * e);
  }
}

inline void unpack(const BlockIQ2_S& in, Block256& out) {
  out.d = half_to_float(in.d) * 0.125f;
  for (int g = 0; g < 16; ++g) out.scale[g] = static_cast<std::int16_t>(2 * nibble(in.scales, g) + 1);
  for (int e = 0; e < 32; ++e) {
    const int index = in.q[e] | (in.high[e / 4] >> e % 4 * 2 & 3) << 8;
    put(kGridIQ2_S.entry[index], in.signs[e], out.q + 8 * e);
  }
}

// Eight values of kGridIQ1, one added or taken away.
inline void put_iq1(int index, bool minus, std::int8_t* q) {
  put(kGridIQ1.entry[index], 0, q);
  for (int j = 0; j < 8; ++j) q[j] = static_cast<std::int8_t>(q[j] + (minus ? -1 : 1));
}

inline void unpack(const BlockIQ1_S& in, Block256& out) {
  out.d = half_to_float(in.d) * 0.125f;
  for (int g = 0; g < 8; ++g) {
    const int word = word_16(in.high[g]);
    set_scale_32(out, g, 2 * (word >> 12 & 7) + 1);
    for (int e = 0; e < 4; ++e) {
      put_iq1(in.q[4 * g + e] | (word >> 3 * e & 7) << 8, word >> 15 != 0, out.q + 32 * g + 8 * e);
    }
  }
}

inline void unpack(const BlockIQ1_M& in, Block256& out) {
  unsigned d = 0;
  for (int i = 0; i < 4; ++i) d |= static_cast<unsigned>(word_16(in.scales[i]) >> 12) << 4 * i;
  out.d = half_to_float(static_cast<std::uint16_t>(d)) * 0.125f;
  for (int g = 0; g < 16; ++g) {
    out.scale[g] = static_cast<std::int16_t>(2 * (word_16(in.scales[g / 4]) >> g % 4 * 3 & 7) + 1);
  }
  for (int e = 0; e < 32; ++e) {
    const int high = nibble(in.high, e);
    put_iq1(in.q[e] | (high & 7) << 8, (high & 8) != 0, out.q + 8 * e);
  }
}

// --- three levels ---

inline void set_scales_one(Block256& out) {
  for (int g = 0; g < 16; ++g) out.scale[g] = 1;
}

// Digit j of a fraction of 256, less one. Times 3^j modulo 256 brings it to the front; times 3 it steps over the point.
inline std::int8_t ternary_digit(std::uint8_t fraction, int j) {
  constexpr std::uint8_t kPowers[] = {1, 3, 9, 27, 81};
  return static_cast<std::int8_t>((static_cast<std::uint8_t>(fraction * kPowers[j]) * 3 >> 8) - 1);
}

inline void unpack(const BlockTQ1_0& in, Block256& out) {
  out.d = half_to_float(in.d);
  set_scales_one(out);
  for (int i = 0; i < 160; ++i) out.q[i] = ternary_digit(in.q[i % 32], i / 32);
  for (int i = 0; i < 80; ++i) out.q[160 + i] = ternary_digit(in.q[32 + i % 16], i / 16);
  for (int i = 0; i < 16; ++i) out.q[240 + i] = ternary_digit(in.high[i % 4], i / 4);
}

inline void unpack(const BlockTQ2_0& in, Block256& out) {
  out.d = half_to_float(in.d);
  set_scales_one(out);
  for (int i = 0; i < 256; ++i) out.q[i] = static_cast<std::int8_t>(two_bits(in.q, i) - 1);
}

}  // namespace pronk
