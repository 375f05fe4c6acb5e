// Blocks of the file to vectors with AVX2: one unpacker a type. A new type is one more struct here.
//
// Values are unsigned bytes of kBits (or fewer), in their order.
//   K-quants, with a scale (and a min) for each 16 values:  w = d * scale * (u - kOffset) - dmin * min
//   32-value types:                                         w = d * (u - kOffset) + m
#pragma once

#include <immintrin.h>

#include "pronk/quants.hpp"

namespace pronk::avx2 {

// kGroup: how many values have one scale, where an unpacker says that they are fewer than 32.
template <class Unpacker>
constexpr int group_of() {
  if constexpr (requires { Unpacker::kGroup; }) {
    return Unpacker::kGroup;
  } else {
    return 32;
  }
}

inline float half(Half h) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, h.bytes, 2);
  return _cvtsh_ss(bits);
}

// MXFP4's scales, 2^(e - 128) for e = 0 to 255: a float's exponent field, or the mantissa where they are subnormal.
inline __m128 powers_of_two(__m128i e) {
  const __m128i normal = _mm_slli_epi32(_mm_sub_epi32(e, _mm_set1_epi32(1)), 23);
  const __m128i subnormal = _mm_sllv_epi32(_mm_set1_epi32(0x00200000), e);
  return _mm_castsi128_ps(_mm_blendv_epi8(normal, subnormal, _mm_cmplt_epi32(e, _mm_set1_epi32(2))));
}

// A 32-value block's scale.
template <class Block>
inline float block_scale(const Block& block) {
  if constexpr (__is_same(Block, BlockMXFP4)) {
    return _mm_cvtss_f32(powers_of_two(_mm_set1_epi32(block.e)));
  } else {
    return half(block.d);
  }
}

inline __m128i load_128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_256(void* p, __m256i v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}

inline std::uint32_t load_u32(const void* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}

// Compilers reorder sums of whole numbers into trees, whose many leaves would not fit the registers. This does nothing
// but keep a sum so far from being taken apart.
inline __attribute__((always_inline)) void keep(__m256i& sum) {
  __asm__("" : "+x"(sum));
}

inline __m256i low_nibbles(__m256i v) {
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
inline __m256i high_nibbles(__m256i v) {
  return low_nibbles(_mm256_srli_epi16(v, 4));
}

// 16 bytes of two nibbles: the low ones are values 0..15, the high ones 16..31.
inline __m256i unpack_nibbles(const std::uint8_t* q) {
  const __m256i bytes = _mm256_broadcastsi128_si256(load_128(q));
  return low_nibbles(_mm256_srlv_epi64(bytes, _mm256_set_epi64x(4, 4, 0, 0)));
}

// Bit i of the word as 16 (or 0) in byte i.
inline __m256i fifth_bits(const std::uint8_t* high) {
  const __m256i word = _mm256_set1_epi32(static_cast<int>(load_u32(high)));
  const __m256i byte_of = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(word, byte_of), bit_of);
  return _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit_of), _mm256_set1_epi8(16));
}

// s8 + 128 as u8, and back.
inline __m256i flip_signs(__m256i v) {
  return _mm256_xor_si256(v, _mm256_set1_epi8(static_cast<char>(0x80)));
}

struct UnpackQ4_0 {
  using Block = BlockQ4_0;
  static constexpr int kValues = 32, kBits = 4, kOffset = 8;
  static constexpr bool kMins = false;
  static __m256i values(const Block& block) { return unpack_nibbles(block.q); }
};

struct UnpackQ4_1 {
  using Block = BlockQ4_1;
  static constexpr int kValues = 32, kBits = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static __m256i values(const Block& block) { return unpack_nibbles(block.q); }
};

struct UnpackQ5_0 {
  using Block = BlockQ5_0;
  static constexpr int kValues = 32, kBits = 5, kOffset = 16;
  static constexpr bool kMins = false;
  static __m256i values(const Block& block) { return _mm256_or_si256(unpack_nibbles(block.q), fifth_bits(block.high)); }
};

struct UnpackQ5_1 {
  using Block = BlockQ5_1;
  static constexpr int kValues = 32, kBits = 5, kOffset = 0;
  static constexpr bool kMins = true;
  static __m256i values(const Block& block) { return _mm256_or_si256(unpack_nibbles(block.q), fifth_bits(block.high)); }
};

struct UnpackQ8_0 {
  using Block = BlockQ8_0;
  static constexpr int kValues = 32, kBits = 8, kOffset = 128;
  static constexpr bool kMins = false;
  static __m256i values(const Block& block) { return flip_signs(load_256(block.q)); }
};

// The scales and mins of Q4_K and Q5_K (unpack_scale in quants/half.hpp shows the packing), four groups in a 32-bit
// word.
inline void unpack_6_bits(const std::uint8_t* packed, __m256i& scales, __m256i& mins) {
  const std::uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
  const auto low_scales = static_cast<int>(a & 0x3f3f3f3fu), low_mins = static_cast<int>(b & 0x3f3f3f3fu);
  const auto high_scales = static_cast<int>((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u));
  const auto high_mins = static_cast<int>((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u));
  const __m128i bytes = _mm_set_epi32(high_mins, low_mins, high_scales, low_scales);
  scales = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes));  // a group of 32 is two of 16
  mins = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(bytes, bytes));
}

struct UnpackQ4_K {
  using Block = BlockQ4_K;
  static constexpr int kValues = 256, kBits = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static void values(const Block& block, __m256i (&u)[8]) {
    for (int pair = 0; pair < 4; ++pair) {
      const __m256i bytes = load_256(block.q + 32 * pair);
      u[2 * pair] = low_nibbles(bytes);
      u[2 * pair + 1] = high_nibbles(bytes);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i& min) { unpack_6_bits(block.scales, scale, min); }
  static __m128 floats(const Block& block) {  // d, dmin, 0, 0
    return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(&block))));
  }
};

struct UnpackQ5_K {
  using Block = BlockQ5_K;
  static constexpr int kValues = 256, kBits = 5, kOffset = 0;
  static constexpr bool kMins = true;
  static void values(const Block& block, __m256i (&u)[8]) {
    const __m256i sixteen = _mm256_set1_epi8(16);
    __m256i high = load_256(block.high);
    for (int pair = 0; pair < 4; ++pair) {  // the next two groups' bits are the lowest of each byte
      const __m256i bytes = load_256(block.q + 32 * pair);
      const __m256i low_fifth = _mm256_and_si256(_mm256_slli_epi16(high, 4), sixteen);
      const __m256i high_fifth = _mm256_and_si256(_mm256_slli_epi16(high, 3), sixteen);
      u[2 * pair] = _mm256_or_si256(low_nibbles(bytes), low_fifth);
      u[2 * pair + 1] = _mm256_or_si256(high_nibbles(bytes), high_fifth);
      high = _mm256_srli_epi16(high, 2);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i& min) { unpack_6_bits(block.scales, scale, min); }
  static __m128 floats(const Block& block) {
    return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(&block))));
  }
};

// Two bits of each of 256 values, 32 bytes for 128 of them.
inline void unpack_two_bits(const std::uint8_t* q, __m256i (&u)[8]) {
  const __m256i mask = _mm256_set1_epi8(3);
  for (int half = 0; half < 2; ++half) {
    const __m256i bytes = load_256(q + 32 * half);
    u[4 * half] = _mm256_and_si256(bytes, mask);
    u[4 * half + 1] = _mm256_and_si256(_mm256_srli_epi16(bytes, 2), mask);
    u[4 * half + 2] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    u[4 * half + 3] = _mm256_and_si256(_mm256_srli_epi16(bytes, 6), mask);
  }
}

struct UnpackQ2_K {
  using Block = BlockQ2_K;
  static constexpr int kValues = 256, kBits = 4, kOffset = 0, kGroup = 16;
  static constexpr bool kMins = true;
  static void values(const Block& block, __m256i (&u)[8]) { unpack_two_bits(block.q, u); }
  static void scales(const Block& block, __m256i& scale, __m256i& min) {
    const __m256i both = _mm256_cvtepu8_epi16(load_128(block.scales));
    scale = _mm256_and_si256(both, _mm256_set1_epi16(15));
    min = _mm256_srli_epi16(both, 4);
  }
  static __m128 floats(const Block& block) {
    return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(&block.d))));
  }
};

struct UnpackQ3_K {
  using Block = BlockQ3_K;
  static constexpr int kValues = 256, kBits = 4, kOffset = 4, kGroup = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, __m256i (&u)[8]) {
    unpack_two_bits(block.low, u);
    const __m256i high = load_256(block.high), four = _mm256_set1_epi8(4);
    for (int g = 0; g < 8; ++g) {
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << g));
      const __m256i third = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
      u[g] = _mm256_or_si256(u[g], _mm256_and_si256(third, four));
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const std::uint32_t a = load_u32(block.scales), b = load_u32(block.scales + 4), top = load_u32(block.scales + 8);
    const auto join = [&](std::uint32_t low, int k) {
      return static_cast<int>((low & 0x0f0f0f0fu) | (top >> 2 * k & 0x03030303u) << 4);
    };
    const __m128i bytes = _mm_set_epi32(join(b >> 4, 3), join(a >> 4, 2), join(b, 1), join(a, 0));
    scale = _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(32));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

struct UnpackQ6_K {
  using Block = BlockQ6_K;
  static constexpr int kValues = 256, kBits = 6, kOffset = 32;
  static constexpr bool kMins = false;
  static void values(const Block& block, __m256i (&u)[8]) {
    for (int part = 0; part < 2; ++part) {  // halves of 128 values
      const __m256i low_a = load_256(block.low + 64 * part), low_b = load_256(block.low + 64 * part + 32);
      const __m256i high = load_256(block.high + 32 * part);
      u[4 * part] = join(low_nibbles(low_a), _mm256_slli_epi16(high, 4));
      u[4 * part + 1] = join(low_nibbles(low_b), _mm256_slli_epi16(high, 2));
      u[4 * part + 2] = join(high_nibbles(low_a), high);
      u[4 * part + 3] = join(high_nibbles(low_b), _mm256_srli_epi16(high, 2));
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    scale = _mm256_cvtepi8_epi16(load_128(block.scales));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }

 private:
  // Four low bits, and two more that stand at bits 4 and 5 of `high` (the rest of it is the neighbours').
  static __m256i join(__m256i low, __m256i high) {
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
  }
};

}  // namespace pronk::avx2
