// Unpackers with AVX2 of the types whose values come from tables, and of those with three levels.
//
// A grid's entry is read from the L1 cache, a load each; vpgather would be no faster (on many CPUs it is much slower).
#pragma once

#include "arch/avx2_unpack.hpp"
#include "quants/grids.hpp"

namespace pronk::avx2 {

inline std::uint64_t load_u64(const void* p) {
  std::uint64_t word;
  __builtin_memcpy(&word, p, 8);
  return word;
}

inline std::uint32_t load_u16(const void* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, 2);
  return word;
}

// 2 * scale + 1, of int16.
inline __m256i odd_scales(__m256i scale) {
  return _mm256_add_epi16(_mm256_add_epi16(scale, scale), _mm256_set1_epi16(1));
}

// The two halves of each of eight bytes, low half first.
inline __m128i split_bytes(std::uint64_t bytes) {
  const __m128i both = _mm_cvtsi64_si128(static_cast<long long>(bytes));
  return _mm_and_si128(_mm_unpacklo_epi8(both, _mm_srli_epi16(both, 4)), _mm_set1_epi8(15));
}

// Eight bytes as int16, each twice: scales of 32 values for groups of 16.
inline __m256i twice(__m128i bytes) {
  return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes));
}

// --- 4 bits through a table of 16 ---

// Of signed bytes as u8, `offset` added.
inline __m256i table_of_16(const std::int8_t* table, int offset) {
  const __m128i values = _mm_add_epi8(load_128(table), _mm_set1_epi8(static_cast<char>(offset)));
  return _mm256_broadcastsi128_si256(values);
}

struct UnpackIQ4_NL {
  using Block = BlockIQ4_NL;
  static constexpr int kValues = 32, kBits = 8, kOffset = 128;
  static constexpr bool kMins = false;
  static __m256i values(const Block& block) {
    return _mm256_shuffle_epi8(table_of_16(kIQ4Values, kOffset), unpack_nibbles(block.q));
  }
};

struct UnpackMXFP4 {
  using Block = BlockMXFP4;
  static constexpr int kValues = 32, kBits = 5, kOffset = 16;
  static constexpr bool kMins = false;
  static __m256i values(const Block& block) {
    return _mm256_shuffle_epi8(table_of_16(kMXFP4Values, kOffset), unpack_nibbles(block.q));
  }
};

struct UnpackIQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr int kValues = 256, kBits = 8, kOffset = 128;
  static constexpr bool kMins = false;
  static void values(const Block& block, __m256i (&u)[8]) {
    const __m256i table = table_of_16(kIQ4Values, kOffset);
    for (int g = 0; g < 8; ++g) u[g] = _mm256_shuffle_epi8(table, unpack_nibbles(block.q + 16 * g));
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    // Every group's two bits are brought to bits 4 and 5 of a 16-bit lane by a product with a power of two.
    const __m128i top = _mm_set1_epi16(static_cast<short>(load_u16(block.scales_high)));
    const __m128i high =
        _mm_srli_epi16(_mm_and_si128(_mm_mullo_epi16(top, _mm_set_epi16(1, 4, 16, 64, 256, 1024, 4096, 16384)),
                                     _mm_set1_epi16(static_cast<short>(0xc000))),
                       10);
    const __m128i low = _mm_cvtepu8_epi16(split_bytes(load_u32(block.scales_low)));
    const __m128i each = _mm_sub_epi16(_mm_or_si128(low, high), _mm_set1_epi16(32));
    scale = _mm256_set_m128i(_mm_unpackhi_epi16(each, each), _mm_unpacklo_epi16(each, each));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

// --- signs ---

// Bit j of byte i: value 8i + j is negative.
struct Signs {
  std::uint32_t word[8];
};

inline Signs load_signs(const void* p) {
  Signs signs;
  __builtin_memcpy(&signs, p, sizeof(signs));
  return signs;
}

// kSigns of seven bits in each byte or, if the upper bytes are zero, in each word: the eighth makes their number even.
inline __m256i add_parity(__m256i indices) {
  __m256i parity = _mm256_xor_si256(indices, _mm256_srli_epi16(indices, 4));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 2));
  parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 1));
  return _mm256_or_si256(indices, _mm256_slli_epi16(_mm256_and_si256(parity, _mm256_set1_epi8(1)), 7));
}

// From eight words of four indices of 7 bits.
inline Signs signs_of_words(__m256i words) {
  __m256i indices = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
  for (int i = 1; i < 4; ++i) {
    const __m256i moved = _mm256_sllv_epi32(words, _mm256_set1_epi32(i));
    indices = _mm256_or_si256(indices, _mm256_and_si256(moved, _mm256_set1_epi32(0x7f << 8 * i)));
  }
  Signs signs;
  store_256(&signs, add_parity(indices));
  return signs;
}

// The scales of such words, their top four bits.
inline __m256i scales_of_words(__m256i words) {
  const __m256i scale = _mm256_srli_epi32(words, 28);
  return odd_scales(_mm256_or_si256(scale, _mm256_slli_epi32(scale, 16)));
}

// Bit i of the word as -1 (or 0) in byte i.
inline __m256i spread_bits(std::uint32_t bits) {
  const __m256i word = _mm256_set1_epi32(static_cast<int>(bits));
  const __m256i byte_of = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, byte_of), bit_of), bit_of);
}

// offset + (+-)magnitudes
inline __m256i add_signs(__m256i magnitudes, std::uint32_t signs, int offset) {
  const __m256i minus = spread_bits(signs);
  const __m256i values = _mm256_sub_epi8(_mm256_xor_si256(magnitudes, minus), minus);
  return _mm256_add_epi8(values, _mm256_set1_epi8(static_cast<char>(offset)));
}

// --- grids of four values ---

// index(i): that of four i of eight.
template <class F>
inline __m256i look_up_fours(const std::uint32_t* grid, const F& index) {
  const auto entry = [&](int i) { return static_cast<int>(grid[index(i)]); };
  return _mm256_set_epi32(entry(7), entry(6), entry(5), entry(4), entry(3), entry(2), entry(1), entry(0));
}

struct UnpackIQ3_S {
  using Block = BlockIQ3_S;
  static constexpr int kValues = 256, kBits = 5, kOffset = 16;
  static constexpr bool kMins = false;
  static void values(const Block& block, __m256i (&u)[8]) {
    const Signs signs = load_signs(block.signs);
    for (int g = 0; g < 8; ++g) {
      const unsigned ninth = block.high[g];
      const auto index = [&](int i) { return block.q[8 * g + i] | (ninth << (8 - i) & 256); };
      u[g] = add_signs(look_up_fours(kGridIQ3_S.entry, index), signs.word[g], kOffset);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    scale = odd_scales(twice(split_bytes(load_u32(block.scales))));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

struct UnpackIQ3_XXS {
  using Block = BlockIQ3_XXS;
  static constexpr int kValues = 256, kBits = 7, kOffset = 64;
  static constexpr bool kMins = false;
  static void values(const Block& block, __m256i (&u)[8]) {
    const Signs signs = signs_of_words(load_256(block.signs));
    for (int g = 0; g < 8; ++g) {
      const auto index = [&](int i) { return block.q[8 * g + i]; };
      u[g] = add_signs(look_up_fours(kGridIQ3_XXS.entry, index), signs.word[g], kOffset);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = scales_of_words(load_256(block.signs)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.25f); }
};

// --- grids of eight values ---

// index(e): that of eight e of four.
template <class F>
inline __m256i look_up_eights(const std::uint64_t* grid, const F& index) {
  const auto entry = [&](int e) { return static_cast<long long>(grid[index(e)]); };
  return _mm256_set_epi64x(entry(3), entry(2), entry(1), entry(0));
}

struct UnpackIQ2 {
  static constexpr int kValues = 256, kBits = 7, kOffset = 64;
  static constexpr bool kMins = false;
};

struct UnpackIQ2_XXS : UnpackIQ2 {
  using Block = BlockIQ2_XXS;
  static void values(const Block& block, __m256i (&u)[8]) {
    const Signs signs = signs_of_words(words(block));
    for (int g = 0; g < 8; ++g) {
      const auto index = [&](int e) { return block.groups[g].q[e]; };
      u[g] = add_signs(look_up_eights(kGridIQ2_XXS.entry, index), signs.word[g], kOffset);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = scales_of_words(words(block)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }

 private:
  static __m256i words(const Block& block) {  // the upper one of each group's two
    const __m256 low = _mm256_castsi256_ps(load_256(block.groups)),
                 high = _mm256_castsi256_ps(load_256(block.groups + 4));
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0xdd)), 0xd8);
  }
};

// 16 scales of four bits, scale 2i in the low half of byte i.
inline __m256i nibble_scales(const std::uint8_t* packed) {
  return _mm256_cvtepu8_epi16(split_bytes(load_u64(packed)));
}

struct UnpackIQ2_XS : UnpackIQ2 {
  using Block = BlockIQ2_XS;
  static constexpr int kGroup = 16;
  static void values(const Block& block, __m256i (&u)[8]) {
    const __m256i first = add_parity(_mm256_srli_epi16(load_256(block.q), 9));
    const __m256i second = add_parity(_mm256_srli_epi16(load_256(block.q + 16), 9));
    Signs signs;
    store_256(&signs, _mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0xd8));
    for (int g = 0; g < 8; ++g) {
      const auto index = [&](int e) { return load_u16(block.q[4 * g + e]) & 511; };
      u[g] = add_signs(look_up_eights(kGridIQ2_XS.entry, index), signs.word[g], kOffset);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = odd_scales(nibble_scales(block.scales)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

struct UnpackIQ2_S : UnpackIQ2 {
  using Block = BlockIQ2_S;
  static constexpr int kGroup = 16;
  static void values(const Block& block, __m256i (&u)[8]) {
    const Signs signs = load_signs(block.signs);
    for (int g = 0; g < 8; ++g) {
      const unsigned high = block.high[g];
      const auto index = [&](int e) { return block.q[4 * g + e] | (high << (8 - 2 * e) & 0x300); };
      u[g] = add_signs(look_up_eights(kGridIQ2_S.entry, index), signs.word[g], kOffset);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = odd_scales(nibble_scales(block.scales)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

// --- IQ1: -8, 0 or 8, and one more or less ---

struct UnpackIQ1 {
  static constexpr int kValues = 256, kBits = 5, kOffset = 16;
  static constexpr bool kMins = false;
};

struct UnpackIQ1_S : UnpackIQ1 {
  using Block = BlockIQ1_S;
  static void values(const Block& block, __m256i (&u)[8]) {
    for (int g = 0; g < 8; ++g) {
      const unsigned high = load_u16(block.high[g]);
      const auto index = [&](int e) { return block.q[4 * g + e] | (high >> 3 * e & 7) << 8; };
      const int one = high >> 15 != 0 ? -1 : 1;
      u[g] = _mm256_add_epi8(look_up_eights(kGridIQ1.entry, index), _mm256_set1_epi8(static_cast<char>(kOffset + one)));
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const __m256i words = _mm256_cvtepu16_epi32(load_128(block.high));
    const __m256i each = _mm256_and_si256(_mm256_srli_epi32(words, 12), _mm256_set1_epi32(7));
    scale = odd_scales(_mm256_or_si256(each, _mm256_slli_epi32(each, 16)));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

struct UnpackIQ1_M : UnpackIQ1 {
  using Block = BlockIQ1_M;
  static constexpr int kGroup = 16;
  static void values(const Block& block, __m256i (&u)[8]) {
    const __m256i more = _mm256_set1_epi8(kOffset + 1), two = _mm256_set1_epi8(2);
    for (int g = 0; g < 8; ++g) {
      const unsigned high = load_u16(block.high + 2 * g);
      const auto index = [&](int e) { return block.q[4 * g + e] | (high >> 4 * e & 7) << 8; };
      // Bit 3 of nibble e to the sign of 64-bit lane e.
      const __m256i nibbles = _mm256_sllv_epi64(_mm256_set1_epi64x(high), _mm256_set_epi64x(48, 52, 56, 60));
      const __m256i minus = _mm256_cmpgt_epi64(_mm256_setzero_si256(), nibbles);
      const __m256i one = _mm256_sub_epi8(more, _mm256_and_si256(minus, two));
      u[g] = _mm256_add_epi8(look_up_eights(kGridIQ1.entry, index), one);
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const __m128i words = _mm_cvtsi64_si128(static_cast<long long>(load_u64(block.scales)));
    const __m256i four_each = _mm256_mullo_epi16(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words), each_four()),
                                                 _mm256_set1_epi64x(0x0010008004002000));
    scale = odd_scales(_mm256_srli_epi16(four_each, 13));  // the product has brought each one's three bits to the top
  }
  static __m128 floats(const Block& block) {
    const std::uint64_t words = load_u64(block.scales);
    const auto d = static_cast<unsigned short>((words >> 12 & 0xf) | (words >> 24 & 0xf0) | (words >> 36 & 0xf00) |
                                               (words >> 48 & 0xf000));
    return _mm_set_ss(_cvtsh_ss(d) * 0.125f);
  }

 private:
  static __m256i each_four() {  // each of four 16-bit words four times
    return _mm256_set_epi64x(0x0706070607060706, 0x0504050405040504, 0x0302030203020302, 0x0100010001000100);
  }
};

// --- three levels ---

struct UnpackTernary {
  static constexpr int kValues = 256, kBits = 4, kOffset = 1;
  static constexpr bool kMins = false;
  template <class Block>
  static void scales(const Block&, __m256i& scale, __m256i&) {
    scale = _mm256_set1_epi16(1);
  }
  template <class Block>
  static __m128 floats(const Block& block) {
    return _mm_set_ss(half(block.d));
  }
};

struct UnpackTQ1_0 : UnpackTernary {
  using Block = BlockTQ1_0;
  static void values(const Block& block, __m256i (&u)[8]) {
    __m256i fraction = load_256(block.q);
    for (int j = 0; j < 5; ++j) {
      u[j] = first_digits(fraction);
      fraction = times_3(fraction);
    }
    const __m256i bytes = _mm256_broadcastsi128_si256(load_128(block.q + 32));
    const __m256i pair = _mm256_blend_epi32(bytes, times_3(bytes), 0xf0);
    u[5] = first_digits(pair);
    u[6] = first_digits(times_3(times_3(pair)));
    // The fifth digits of 16 bytes, then four of 4 bytes.
    const __m256i last = times_3(times_3(times_3(times_3(bytes))));
    const __m256i four = _mm256_set1_epi32(static_cast<int>(load_u32(block.high)));
    const __m256i three = times_3(four), nine = times_3(three), more = times_3(nine);
    const __m256i fours =
        _mm256_blend_epi32(_mm256_blend_epi32(four, three, 0x20), _mm256_blend_epi32(nine, more, 0x80), 0xc0);
    u[7] = first_digits(_mm256_blend_epi32(last, fours, 0xf0));
  }

 private:
  static __m256i times_3(__m256i v) { return _mm256_add_epi8(v, _mm256_add_epi8(v, v)); }
  // 3 * v / 256: 1 from 86 on, 2 from 171 on.
  static __m256i first_digits(__m256i v) {
    const __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(86)), v);
    const __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(static_cast<char>(171))), v);
    return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
  }
};

struct UnpackTQ2_0 : UnpackTernary {
  using Block = BlockTQ2_0;
  static void values(const Block& block, __m256i (&u)[8]) { unpack_two_bits(block.q, u); }
};

}  // namespace pronk::avx2
