// Blocks of the file to vectors: one unpacker a type. A new type is one more struct here.
//
// K-quants: 256 values as unsigned bytes in their order, and a scale (and a min) for each 16 of them.
//   w = d * scale * (u - kOffset) - dmin * min
// (kWide: values of so many bits that not even a few sums fit int16, see avx512_many_rows.hpp.)
// 32-value types: four blocks at a time, as a 16-byte block of nibbles suggests:
//   first  = [block 0: values 0..15 | block 1: 0..15 | block 2 | block 3]
//   second = [block 0: values 16..31 | block 1: 16..31 | ...]
//   w = d * (u - kOffset) + m
#pragma once

#include <immintrin.h>

#include "pronk/quants.hpp"

namespace pronk::avx512 {

// Whether an unpacker says so.
template <class Unpacker>
constexpr bool is_wide = requires { Unpacker::kWide; };

// Values that a min is of: 16, or what an unpacker says.
template <class Unpacker>
constexpr int min_group = 16;
template <class Unpacker>
  requires requires { Unpacker::kMinGroup; }
constexpr int min_group<Unpacker> = Unpacker::kMinGroup;

inline float half(Half h) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, h.bytes, 2);
  return _cvtsh_ss(bits);
}

// MXFP4's scales, 2^(e - 128) for e = 0 to 255: a float's exponent field, or the mantissa where they are subnormal.
inline __m512 powers_of_two(__m512i e) {
  const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  const __m512i subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
  return _mm512_castsi512_ps(
      _mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2)), normal, subnormal));
}

// A 32-value block's scale.
template <class Block>
inline float block_scale(const Block& block) {
  if constexpr (__is_same(Block, BlockMXFP4)) {
    return _mm512_cvtss_f32(powers_of_two(_mm512_set1_epi32(block.e)));
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
inline __m512i load_512(const void* p) {
  return _mm512_loadu_si512(p);
}

inline std::uint16_t load_u16(const void* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}
inline std::uint32_t load_u32(const void* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}

// The nibbles of two groups of 32 in each 32 bytes, two such pairs: [g0 | g1] and [g2 | g3].
inline void unpack_nibble_pairs(const std::uint8_t* q, __m512i* out) {
  const __m512i mask = _mm512_set1_epi8(15), bytes = load_512(q);
  const __m512i low = _mm512_and_si512(bytes, mask);                         // g0 g2
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);  // g1 g3
  out[0] = _mm512_shuffle_i64x2(low, high, 0x44);
  out[1] = _mm512_shuffle_i64x2(low, high, 0xee);
}

// The scales and mins of Q4_K and Q5_K (unpack_scale in quants/half.hpp
// shows the packing), four groups in a 32-bit word.
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
  static constexpr int kValues = 256;
  static constexpr bool kMins = true;
  static constexpr int kOffset = 0;
  // For the many-rows kernel: what to subtract from u, so that sums over kSlice values of (u - kCentre) * a fit int16.
  static constexpr int kCentre = 8, kSlice = 32, kMinGroup = 32;

  static void values(const Block& block, __m512i* out) {
    unpack_nibble_pairs(block.q, out);
    unpack_nibble_pairs(block.q + 64, out + 2);
  }
  static void scales(const Block& block, __m256i& scale, __m256i& min) { unpack_6_bits(block.scales, scale, min); }
  static __m128 floats(const Block& block) {  // d, dmin, 0, 0
    return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(&block))));
  }
};

struct UnpackQ5_K {
  using Block = BlockQ5_K;
  static constexpr int kValues = 256;
  static constexpr bool kMins = true;
  static constexpr int kOffset = 0;
  static constexpr int kCentre = 16, kSlice = 16, kMinGroup = 32;

  static void values(const Block& block, __m512i* out) {
    unpack_nibble_pairs(block.q, out);
    unpack_nibble_pairs(block.q + 64, out + 2);
    // Groups 2i and 2i + 1 take bits 2i and 2i + 1 of each byte: a mask picks them, no shift needed.
    const __m512i high = _mm512_broadcast_i64x4(load_256(block.high)), fifth = _mm512_set1_epi8(16);
    for (int i = 0; i < 4; ++i) {
      const __m512i bit = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * i)),
                                             _mm256_set1_epi8(static_cast<char>(2 << 2 * i)), 1);
      out[i] = _mm512_mask_add_epi8(out[i], _mm512_test_epi8_mask(high, bit), out[i], fifth);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i& min) { unpack_6_bits(block.scales, scale, min); }
  static __m128 floats(const Block& block) {
    return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(&block))));
  }
};

struct UnpackQ6_K {
  using Block = BlockQ6_K;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 32;
  static constexpr int kCentre = 32, kSlice = 8;

  static void values(const Block& block, __m512i* out) {
    const __m512i nibble = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    for (int half = 0; half < 2; ++half) {
      const __m512i low = load_512(block.low + 64 * half);
      const __m512i high = _mm512_broadcast_i64x4(load_256(block.high + 32 * half));
      // The two high bits of values 0..31, 32..63, 64..95, 96..127 are bits 0, 2, 4, 6 of the same 32 bytes: bring each
      // pair to bits 4 and 5.
      const __m512i first = _mm512_sllv_epi16(high, _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1));
      const __m512i second =
          _mm512_srlv_epi16(high, _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1));
      out[2 * half] = _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_and_si512(first, top));
      out[2 * half + 1] =
          _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), nibble), _mm512_and_si512(second, top));
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    scale = _mm256_cvtepi8_epi16(load_128(block.scales));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

// Two bits of each of 256 values, 32 bytes for 128 of them.
inline void unpack_two_bits(const std::uint8_t* q, __m512i* out) {
  const __m512i mask = _mm512_set1_epi8(3);
  const __m512i zero_two = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
  const __m512i four_six = _mm512_add_epi16(zero_two, _mm512_set1_epi16(4));
  for (int half = 0; half < 2; ++half) {
    const __m512i bytes = _mm512_broadcast_i64x4(load_256(q + 32 * half));
    out[2 * half] = _mm512_and_si512(_mm512_srlv_epi16(bytes, zero_two), mask);
    out[2 * half + 1] = _mm512_and_si512(_mm512_srlv_epi16(bytes, four_six), mask);
  }
}

struct UnpackQ2_K {
  using Block = BlockQ2_K;
  static constexpr int kValues = 256;
  static constexpr bool kMins = true;
  static constexpr int kOffset = 0;
  static constexpr int kCentre = 0, kSlice = 16;

  static void values(const Block& block, __m512i* out) { unpack_two_bits(block.q, out); }
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
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 4;
  static constexpr int kCentre = 4, kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    unpack_two_bits(block.low, out);
    const __m512i high = _mm512_broadcast_i64x4(load_256(block.high)), third = _mm512_set1_epi8(4);
    for (int i = 0; i < 4; ++i) {  // as in Q5_K
      const __m512i bit = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * i)),
                                             _mm256_set1_epi8(static_cast<char>(2 << 2 * i)), 1);
      out[i] = _mm512_mask_add_epi8(out[i], _mm512_test_epi8_mask(high, bit), out[i], third);
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

// The same 16 bytes of four consecutive blocks, side by side.
inline __m512i load_four(const std::uint8_t* p, int block_bytes) {
  __m512i v = _mm512_castsi128_si512(load_128(p));
  v = _mm512_inserti32x4(v, load_128(p + block_bytes), 1);
  v = _mm512_inserti32x4(v, load_128(p + 2 * block_bytes), 2);
  return _mm512_inserti32x4(v, load_128(p + 3 * block_bytes), 3);
}

inline void split_nibbles(__m512i bytes, __m512i& first, __m512i& second) {
  const __m512i mask = _mm512_set1_epi8(15);
  first = _mm512_and_si512(bytes, mask);
  second = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}

// The fifth bits of four blocks: the low 16 of each 32-bit word belong to `first`, the high 16 to `second`.
inline void add_fifth_bits(const std::uint8_t* p, int block_bytes, __m512i& first, __m512i& second) {
  const std::uint64_t a = load_u32(p), b = load_u32(p + block_bytes);
  const std::uint64_t c = load_u32(p + 2 * block_bytes), d = load_u32(p + 3 * block_bytes);
  const std::uint64_t low = (a & 0xffff) | (b & 0xffff) << 16 | (c & 0xffff) << 32 | d << 48;
  const std::uint64_t high = a >> 16 | (b & 0xffff0000) | (c & 0xffff0000) << 16 | (d & 0xffff0000) << 32;
  const __m512i fifth = _mm512_set1_epi8(16);
  first = _mm512_mask_add_epi8(first, low, first, fifth);
  second = _mm512_mask_add_epi8(second, high, second, fifth);
}

struct UnpackQ4_0 {
  using Block = BlockQ4_0;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 8;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
  }
};

struct UnpackQ4_1 {
  using Block = BlockQ4_1;
  static constexpr int kValues = 32;
  static constexpr bool kMins = true;
  static constexpr int kOffset = 0;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
  }
};

struct UnpackQ5_0 {
  using Block = BlockQ5_0;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 16;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
    add_fifth_bits(block->high, sizeof(Block), first, second);
  }
};

struct UnpackQ5_1 {
  using Block = BlockQ5_1;
  static constexpr int kValues = 32;
  static constexpr bool kMins = true;
  static constexpr int kOffset = 0;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
    add_fifth_bits(block->high, sizeof(Block), first, second);
  }
};

struct UnpackQ8_0 {
  using Block = BlockQ8_0;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 128;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(block->q);
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));  // s8 + 128 as u8
    first = _mm512_xor_si512(load_four(p, sizeof(Block)), sign);
    second = _mm512_xor_si512(load_four(p + 16, sizeof(Block)), sign);
  }
};

}  // namespace pronk::avx512
