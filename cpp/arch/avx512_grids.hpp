// Unpackers of the types whose values come from tables, and of those with three levels.
//
// A grid of up to 512 entries is looked up in registers, as codes of two bytes, which vpermi2b finds 64 at a time. The
// larger grids are read from the L1 cache: an entry is a load there, and vpgatherqq would be no faster (on many CPUs it
// is much slower).
#pragma once

#include "arch/avx512_unpack.hpp"
#include "quants/grids.hpp"

namespace pronk::avx512 {

inline std::uint64_t load_u64(const void* p) {
  std::uint64_t word;
  __builtin_memcpy(&word, p, 8);
  return word;
}

// 16 bytes as int16, each twice: eight scales of 32 values for groups of 16.
inline __m256i twice(__m128i eight_bytes) {
  return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(eight_bytes, eight_bytes));
}

// 2 * scale + 1, of int16.
inline __m256i odd_scales(__m256i scale) {
  return _mm256_add_epi16(_mm256_add_epi16(scale, scale), _mm256_set1_epi16(1));
}

// 16 scales of four bits, scale 2i in the low half of byte i.
inline __m256i nibble_scales(const std::uint8_t* packed) {
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(load_u64(packed)));
  const __m128i split = _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4));
  return _mm256_cvtepu8_epi16(_mm_and_si128(split, _mm_set1_epi8(15)));
}

// --- 4 bits through a table of 16 ---

// Of signed bytes as u8, `offset` added.
inline __m512i table_of_16(const std::int8_t* table, int offset) {
  const __m128i values = _mm_add_epi8(load_128(table), _mm_set1_epi8(static_cast<char>(offset)));
  return _mm512_broadcast_i32x4(values);
}

struct UnpackIQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr bool kWide = true;
  static constexpr int kOffset = 128;
  static constexpr int kCentre = 128, kSlice = 32;

  static void values(const Block& block, __m512i* out) {
    const __m512i table = table_of_16(kIQ4Values, kOffset), mask = _mm512_set1_epi8(15);
    const __m512i lanes = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);  // each group's 16 bytes twice
    const __m512i shift = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
    for (int i = 0; i < 4; ++i) {
      const __m512i bytes = _mm512_permutexvar_epi64(lanes, _mm512_castsi256_si512(load_256(block.q + 32 * i)));
      out[i] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), mask));
    }
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    std::uint16_t top;
    __builtin_memcpy(&top, block.scales_high, 2);
    const std::uint64_t low = _pdep_u64(load_u32(block.scales_low), 0x0f0f0f0f0f0f0f0f);
    const std::uint64_t both = low | _pdep_u64(top, 0x3030303030303030);
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(both));
    scale = twice(_mm_sub_epi8(bytes, _mm_set1_epi8(32)));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

struct UnpackIQ4_NL {
  using Block = BlockIQ4_NL;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 128;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    const __m512i table = table_of_16(kIQ4Values, kOffset);
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
    first = _mm512_shuffle_epi8(table, first);
    second = _mm512_shuffle_epi8(table, second);
  }
};

struct UnpackMXFP4 {
  using Block = BlockMXFP4;
  static constexpr int kValues = 32;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 16;
  static void values(const Block* block, __m512i& first, __m512i& second) {
    const __m512i table = table_of_16(kMXFP4Values, kOffset);
    split_nibbles(load_four(block->q, sizeof(Block)), first, second);
    first = _mm512_shuffle_epi8(table, first);
    second = _mm512_shuffle_epi8(table, second);
  }
};

// --- signs ---

// Bit j of byte i: value 8i + j is negative. One mask for each register of values.
struct Signs {
  std::uint64_t mask[4];
};

inline Signs load_signs(const void* p) {
  Signs signs;
  __builtin_memcpy(&signs, p, sizeof(signs));
  return signs;
}

// From 32 sign indices (kSigns), one a byte; their highest bit is ignored.
inline Signs look_up_signs(__m256i indices) {
  const __m512i found =
      _mm512_permutex2var_epi8(load_512(kSigns), _mm512_castsi256_si512(indices), load_512(kSigns + 64));
  alignas(32) Signs signs;
  _mm256_store_si256(reinterpret_cast<__m256i*>(&signs), _mm512_castsi512_si256(found));
  return signs;
}

// From eight words of four indices of 7 bits.
inline Signs signs_of_words(__m256i words) {
  const __m256i places = _mm256_set1_epi64x(0x352e2720150e0700);
  return look_up_signs(_mm256_multishift_epi64_epi8(places, words));
}

// The scales of such words, their top four bits.
inline __m256i scales_of_words(__m256i words) {
  const __m256i scale = _mm256_srli_epi32(words, 28);
  return odd_scales(_mm256_or_si256(scale, _mm256_slli_epi32(scale, 16)));
}

// offset + (+-)magnitudes
inline void add_signs(const Signs& signs, int offset, __m512i* values) {
  const __m512i middle = _mm512_set1_epi8(static_cast<char>(offset));
  for (int i = 0; i < 4; ++i) {
    const __m512i above = _mm512_add_epi8(middle, values[i]);
    values[i] = _mm512_mask_sub_epi8(above, signs.mask[i], middle, values[i]);
  }
}

// --- grids in registers ---

// The byte of each of 64 indices of eight bits.
inline __m512i look_up_256(const std::uint8_t* table, __m512i indices) {
  const __m512i lower = _mm512_permutex2var_epi8(load_512(table), indices, load_512(table + 64));
  const __m512i upper = _mm512_permutex2var_epi8(load_512(table + 128), indices, load_512(table + 192));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices), lower, upper);
}

// The byte of each of 64 indices of nine bits, of which `ninth` has the highest.
inline __m512i look_up_512(const std::uint8_t* table, __m512i indices, __mmask64 ninth) {
  return _mm512_mask_blend_epi8(ninth, look_up_256(table, indices), look_up_256(table + 256, indices));
}

// 32 codes, as bytes of four levels each in the lower halves of two registers, to 256 values.
inline void spread_eights(__m512i low, __m512i high, __m512i* out) {
  const __m512i low_words = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(low));
  const __m512i high_words = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(high));
  const __m512i codes = _mm512_or_si512(low_words, _mm512_slli_epi16(high_words, 8));
  const __m512i places = _mm512_set1_epi64(0x0e0c0a0806040200);
  const __m512i levels = _mm512_set1_epi32(0x002b1908);  // vpermb takes six bits; four of them are to do nothing
  const __m512i first = _mm512_set_epi64(0x0007000700070007, 0x0006000600060006, 0x0005000500050005, 0x0004000400040004,
                                         0x0003000300030003, 0x0002000200020002, 0x0001000100010001, 0);
  for (int i = 0; i < 4; ++i) {
    const __m512i of_each = _mm512_add_epi16(first, _mm512_set1_epi16(static_cast<short>(8 * i)));
    const __m512i fields = _mm512_multishift_epi64_epi8(places, _mm512_permutexvar_epi16(of_each, codes));
    out[i] = _mm512_permutexvar_epi8(fields, levels);
  }
}

// 64 codes, as bytes of two levels each, to 256 values.
inline void spread_fours(__m512i low, __m512i high, __m512i levels, __m512i* out) {
  // So that what the unpacks below leave in each quarter of a register is what belongs there.
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  low = _mm512_permutexvar_epi32(order, low);
  high = _mm512_permutexvar_epi32(order, high);
  const auto values = [&](__m512i nibbles) {
    return _mm512_shuffle_epi8(levels, _mm512_and_si512(nibbles, _mm512_set1_epi8(15)));
  };
  const __m512i v0 = values(low), v1 = values(_mm512_srli_epi16(low, 4));
  const __m512i v2 = values(high), v3 = values(_mm512_srli_epi16(high, 4));
  const __m512i a = _mm512_unpacklo_epi8(v0, v1), b = _mm512_unpacklo_epi8(v2, v3);
  const __m512i c = _mm512_unpackhi_epi8(v0, v1), d = _mm512_unpackhi_epi8(v2, v3);
  out[0] = _mm512_unpacklo_epi16(a, b);
  out[1] = _mm512_unpackhi_epi16(a, b);
  out[2] = _mm512_unpacklo_epi16(c, d);
  out[3] = _mm512_unpackhi_epi16(c, d);
}

struct UnpackIQ3_S {
  using Block = BlockIQ3_S;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 16;
  static constexpr int kCentre = 16, kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    const __m512i indices = load_512(block.q);
    const std::uint64_t ninth = load_u64(block.high);
    const __m512i low = look_up_512(kCodesIQ3_S.low, indices, ninth);
    const __m512i high = look_up_512(kCodesIQ3_S.high, indices, ninth);
    spread_fours(low, high, _mm512_set1_epi64(0x0f0d0b0907050301), out);
    add_signs(load_signs(block.signs), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const std::uint64_t bytes = _pdep_u64(load_u32(block.scales), 0x0f0f0f0f0f0f0f0f);
    scale = odd_scales(twice(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

struct UnpackIQ3_XXS {
  using Block = BlockIQ3_XXS;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr bool kWide = true;
  static constexpr int kOffset = 64;
  static constexpr int kCentre = 64, kSlice = 32;

  static void values(const Block& block, __m512i* out) {
    const __m512i indices = load_512(block.q), levels = _mm512_set1_epi64(0x3e342c241c140c04);
    spread_fours(look_up_256(kCodesIQ3_XXS.low, indices), look_up_256(kCodesIQ3_XXS.high, indices), levels, out);
    add_signs(signs_of_words(load_256(block.signs)), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = scales_of_words(load_256(block.signs)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.25f); }
};

struct UnpackIQ2 {
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr bool kWide = true;
  static constexpr int kOffset = 64;
  static constexpr int kCentre = 64;
};

struct UnpackIQ2_XXS : UnpackIQ2 {
  using Block = BlockIQ2_XXS;
  static constexpr int kSlice = 32;

  static void values(const Block& block, __m512i* out) {
    const __m512i indices = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(load_512(block.groups)));
    spread_eights(look_up_256(kCodesIQ2_XXS.low, indices), look_up_256(kCodesIQ2_XXS.high, indices), out);
    add_signs(signs_of_words(words(block)), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = scales_of_words(words(block)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }

 private:
  static __m256i words(const Block& block) {
    return _mm512_cvtepi64_epi32(_mm512_srli_epi64(load_512(block.groups), 32));
  }
};

struct UnpackIQ2_XS : UnpackIQ2 {
  using Block = BlockIQ2_XS;
  static constexpr int kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    const __m512i words = load_512(block.q);
    const __m512i indices = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(words));
    const __mmask64 ninth = _mm512_test_epi16_mask(words, _mm512_set1_epi16(256));
    const __m512i low = look_up_512(kCodesIQ2_XS.low, indices, ninth);
    spread_eights(low, look_up_512(kCodesIQ2_XS.high, indices, ninth), out);
    add_signs(look_up_signs(_mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 9))), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = odd_scales(nibble_scales(block.scales)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

// --- grids in memory ---

// The values of 32 indices: four(i) has numbers 4i to 4i + 3, of 16 bits. They are put together in general registers: a
// vector of them would have to be stored and read again, which was a quarter of the time. Entries come by masked
// broadcasts from memory, which take no shuffle.
template <class Four>
inline void look_up_eights(const std::uint64_t* grid, const Four& four, __m512i* out) {
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t low = four(2 * i), high = four(2 * i + 1);
    const auto entry = [&](int e) __attribute__((always_inline)) {
      return _mm_loadl_epi64(
          reinterpret_cast<const __m128i*>(grid + ((e < 4 ? low : high) >> (16 * (e % 4)) & 0xffff)));
    };
    __m512i eights = _mm512_castsi128_si512(_mm_unpacklo_epi64(entry(0), entry(1)));
    eights = _mm512_mask_broadcastq_epi64(eights, 1 << 2, entry(2));
    eights = _mm512_mask_broadcastq_epi64(eights, 1 << 3, entry(3));
    eights = _mm512_mask_broadcastq_epi64(eights, 1 << 4, entry(4));
    eights = _mm512_mask_broadcastq_epi64(eights, 1 << 5, entry(5));
    eights = _mm512_mask_broadcastq_epi64(eights, 1 << 6, entry(6));
    out[i] = _mm512_mask_broadcastq_epi64(eights, 1 << 7, entry(7));
  }
}

// Indices of more than eight bits, four of them: bytes, and the fields of `high` as far as `mask` has room for them.
inline std::uint64_t join_indices(const std::uint8_t* q, std::uint64_t high, std::uint64_t mask) {
  return _pdep_u64(load_u32(q), 0x00ff00ff00ff00ff) | _pdep_u64(high, mask);
}

struct UnpackIQ2_S : UnpackIQ2 {
  using Block = BlockIQ2_S;
  static constexpr int kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    const auto four = [&](int i) { return join_indices(block.q + 4 * i, block.high[i], 0x0300030003000300); };
    look_up_eights(kGridIQ2_S.entry, four, out);
    add_signs(load_signs(block.signs), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) { scale = odd_scales(nibble_scales(block.scales)); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

// --- IQ1: -8, 0 or 8, and one more or less ---

// `minus`: bit e for eight e.
inline void add_ones(std::uint32_t minus, int offset, __m512i* out) {
  const __m512i more = _mm512_set1_epi8(static_cast<char>(offset + 1));
  const __m512i less = _mm512_set1_epi8(static_cast<char>(offset - 1));
  for (int i = 0; i < 4; ++i) {
    const auto mask = static_cast<__mmask8>(minus >> 8 * i);
    out[i] = _mm512_add_epi8(out[i], _mm512_mask_blend_epi64(mask, more, less));
  }
}

struct UnpackIQ1_S {
  using Block = BlockIQ1_S;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 16;
  static constexpr int kCentre = 16, kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    const auto* high = reinterpret_cast<const std::uint8_t*>(block.high);
    const auto four = [&](int i) { return join_indices(block.q + 4 * i, load_u16(high + 2 * i), 0x0700070007000700); };
    look_up_eights(kGridIQ1.entry, four, out);
    const auto minus = static_cast<std::uint8_t>(_mm_movepi16_mask(load_128(block.high)));
    add_ones(_pdep_u32(minus, 0x11111111u) * 15, kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const __m256i words = _mm256_cvtepu16_epi32(load_128(block.high));
    const __m256i each = _mm256_and_si256(_mm256_srli_epi32(words, 12), _mm256_set1_epi32(7));
    scale = odd_scales(_mm256_or_si256(each, _mm256_slli_epi32(each, 16)));
  }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d) * 0.125f); }
};

struct UnpackIQ1_M {
  using Block = BlockIQ1_M;
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 16;
  static constexpr int kCentre = 16, kSlice = 16;

  static void values(const Block& block, __m512i* out) {
    const auto* high = reinterpret_cast<const std::uint8_t*>(block.high);
    const std::uint64_t index_bits = 0x7777777777777777, sign_bits = ~index_bits;  // of fields of four
    const auto four = [&](int i) {
      return join_indices(block.q + 4 * i, _pext_u64(load_u16(high + 2 * i), index_bits), 0x0700070007000700);
    };
    look_up_eights(kGridIQ1.entry, four, out);
    const std::uint64_t minus = _pext_u64(load_u64(high), sign_bits) | _pext_u64(load_u64(high + 8), sign_bits) << 16;
    add_ones(static_cast<std::uint32_t>(minus), kOffset, out);
  }
  static void scales(const Block& block, __m256i& scale, __m256i&) {
    const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(load_u64(block.scales)));
    const __m256i places = _mm256_set1_epi64x(0x0009000600030000);
    const __m256i fields = _mm256_multishift_epi64_epi8(places, _mm256_cvtepu16_epi64(packed));
    scale = odd_scales(_mm256_and_si256(fields, _mm256_set1_epi16(7)));
  }
  static __m128 floats(const Block& block) {
    const std::uint64_t words = load_u64(block.scales);
    const auto d = static_cast<unsigned short>(_pext_u64(words, 0xf000f000f000f000));
    return _mm_set_ss(_cvtsh_ss(d) * 0.125f);
  }
};

// --- three levels ---

struct UnpackTernary {
  static constexpr int kValues = 256;
  static constexpr bool kMins = false;
  static constexpr int kOffset = 1;
  static constexpr int kCentre = 1, kSlice = 32;
};

struct UnpackTQ1_0 : UnpackTernary {
  using Block = BlockTQ1_0;

  static void values(const Block& block, __m512i* out) {
    // Digits j of [32 bytes | 16 | 4]: see BlockTQ1_0 for where they belong.
    __m512i fraction = _mm512_maskz_loadu_epi8((1ull << 52) - 1, block.q), digit[5];
    for (__m512i& d : digit) {
      const __mmask64 one = _mm512_cmpgt_epu8_mask(fraction, _mm512_set1_epi8(85));
      const __mmask64 two = _mm512_cmpgt_epu8_mask(fraction, _mm512_set1_epi8(static_cast<char>(170)));
      d = _mm512_maskz_set1_epi8(one, 1);
      d = _mm512_mask_mov_epi8(d, two, _mm512_set1_epi8(2));
      fraction = _mm512_add_epi8(fraction, _mm512_add_epi8(fraction, fraction));
    }
    const __m512i b01 = _mm512_shuffle_i64x2(digit[0], digit[1], 0xaa);
    const __m512i b23 = _mm512_shuffle_i64x2(digit[2], digit[3], 0xaa);
    const __m512i fours =
        _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(digit[0], digit[1]), _mm512_unpacklo_epi32(digit[2], digit[3]));
    const __m512i rest = _mm512_shuffle_i64x2(digit[4], fours, 0xfa);
    out[0] = _mm512_shuffle_i64x2(digit[0], digit[1], 0x44);
    out[1] = _mm512_shuffle_i64x2(digit[2], digit[3], 0x44);
    out[2] = _mm512_shuffle_i64x2(digit[4], b01, 0x84);
    out[3] = _mm512_shuffle_i64x2(b23, rest, 0x88);
  }
  static void scales(const Block&, __m256i& scale, __m256i&) { scale = _mm256_set1_epi16(1); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

struct UnpackTQ2_0 : UnpackTernary {
  using Block = BlockTQ2_0;

  static void values(const Block& block, __m512i* out) { unpack_two_bits(block.q, out); }
  static void scales(const Block&, __m256i& scale, __m256i&) { scale = _mm256_set1_epi16(1); }
  static __m128 floats(const Block& block) { return _mm_set_ss(half(block.d)); }
};

}  // namespace pronk::avx512
