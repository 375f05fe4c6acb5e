// Blocks of 16 weight rows in columns: lane r of every vector belongs to row r. The file's bytes are transposed packed,
// as they are, and unpacked then: two or four times fewer words to move, and scales of 16 rows at a time.
#pragma once

#include "arch/avx512_unpack.hpp"

namespace pronk::avx512 {

constexpr int kColumnRows = 16;
using Rows = const std::uint8_t* const*;  // a block of each of the rows

// out[i], i = 0..3: in lane r, word i of the 16 bytes at rows[r] + at.
inline void load_columns(Rows rows, std::size_t at, __m512i* out) {
  __m512i quarters[4];  // [i]: quarter q is of row 4q + i. Inserting from memory takes no shuffle.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512i v = _mm512_castsi128_si512(load_128(rows[i] + at));
    v = _mm512_inserti32x4(v, load_128(rows[4 + i] + at), 1);
    v = _mm512_inserti32x4(v, load_128(rows[8 + i] + at), 2);
    quarters[i] = _mm512_inserti32x4(v, load_128(rows[12 + i] + at), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(quarters[0], quarters[1]);  // words 0 0 1 1
  const __m512i b = _mm512_unpacklo_epi32(quarters[2], quarters[3]);
  const __m512i c = _mm512_unpackhi_epi32(quarters[0], quarters[1]);  // 2 2 3 3
  const __m512i d = _mm512_unpackhi_epi32(quarters[2], quarters[3]);
  out[0] = _mm512_unpacklo_epi64(a, b);
  out[1] = _mm512_unpackhi_epi64(a, b);
  out[2] = _mm512_unpacklo_epi64(c, d);
  out[3] = _mm512_unpackhi_epi64(c, d);
}

// The scales of a block of 256, by group of 16, as int32.
struct ColumnScales {
  __m512i scale[16], min[16];
  __m512 d, dmin;
};

inline __m512i low_nibbles(__m512i v) {
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
inline __m512i high_nibbles(__m512i v) {
  return low_nibbles(_mm512_srli_epi32(v, 4));
}
inline __m512i bits_of(__m512i v, int shift, int mask) {  // shift < 0: to the left; the mask is of a byte
  const __m512i moved = shift < 0 ? _mm512_slli_epi32(v, static_cast<unsigned>(-shift))
                                  : _mm512_srli_epi32(v, static_cast<unsigned>(shift));
  return _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(mask)));
}
// Byte j of each word.
inline __m512i byte_of(__m512i v, int j) {
  return _mm512_and_si512(_mm512_srli_epi32(v, static_cast<unsigned>(8 * j)), _mm512_set1_epi32(255));
}
inline __m512i signed_byte_of(__m512i v, int j) {
  return _mm512_srai_epi32(_mm512_slli_epi32(v, static_cast<unsigned>(24 - 8 * j)), 24);
}
// fp16 in the low halves of words, in the high ones.
inline __m512 low_half_floats(__m512i v) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}
inline __m512 high_half_floats(__m512i v) {
  return low_half_floats(_mm512_srli_epi32(v, 16));
}
// Of an fp16 at rows[r] + at.
inline __m512 column_halves(Rows rows, std::size_t at) {
  alignas(32) std::uint16_t bits[kColumnRows];
  for (int r = 0; r < kColumnRows; ++r) __builtin_memcpy(&bits[r], rows[r] + at, 2);
  return _mm512_cvtph_ps(load_256(bits));
}

// store(word of 64, four values u of a row in each lane), for the types that are packed so.
template <class Unpacker>
struct Columns;

template <class Unpacker>
constexpr bool has_columns = requires { Columns<Unpacker>::kThere; };

// d, dmin and the 6-bit scales of Q4_K and Q5_K are the first 16 bytes of a block.
inline void six_bit_columns(Rows rows, ColumnScales& out) {
  __m512i head[4];
  load_columns(rows, 0, head);
  const __m512i six = _mm512_set1_epi8(0x3f), top = _mm512_set1_epi8(0x30);
  const auto join = [&](__m512i low, __m512i high) {
    return _mm512_or_si512(low_nibbles(low), _mm512_and_si512(_mm512_srli_epi32(high, 2), top));
  };
  const __m512i scales[2] = {_mm512_and_si512(head[1], six), join(head[3], head[1])};
  const __m512i mins[2] = {_mm512_and_si512(head[2], six), join(_mm512_srli_epi32(head[3], 4), head[2])};
  for (int group = 0; group < 8; ++group) {
    out.scale[2 * group] = out.scale[2 * group + 1] = byte_of(scales[group / 4], group % 4);
    out.min[2 * group] = out.min[2 * group + 1] = byte_of(mins[group / 4], group % 4);
  }
  out.d = low_half_floats(head[0]);
  out.dmin = high_half_floats(head[0]);
}

template <>
struct Columns<UnpackQ4_K> {
  static constexpr bool kThere = true;
  static void scales(Rows rows, ColumnScales& out) { six_bit_columns(rows, out); }
  template <class Store>
  static void values(Rows rows, const Store& store) {
    for (int pair = 0; pair < 4; ++pair) {
      for (int part = 0; part < 2; ++part) {
        __m512i words[4];
        load_columns(rows, offsetof(BlockQ4_K, q) + 32 * pair + 16 * part, words);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          store(16 * pair + 4 * part + i, low_nibbles(words[i]));
          store(16 * pair + 4 * part + i + 8, high_nibbles(words[i]));
        }
      }
    }
  }
};

template <>
struct Columns<UnpackQ5_K> {
  static constexpr bool kThere = true;
  static void scales(Rows rows, ColumnScales& out) { six_bit_columns(rows, out); }
  template <class Store>
  static void values(Rows rows, const Store& store) {
    for (int part = 0; part < 2; ++part) {
      __m512i high[4], words[4];
      load_columns(rows, offsetof(BlockQ5_K, high) + 16 * part, high);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {
        load_columns(rows, offsetof(BlockQ5_K, q) + 32 * pair + 16 * part, words);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m512i even = bits_of(high[i], 2 * pair - 4, 16), odd = bits_of(high[i], 2 * pair - 3, 16);
          store(16 * pair + 4 * part + i, _mm512_or_si512(low_nibbles(words[i]), even));
          store(16 * pair + 4 * part + i + 8, _mm512_or_si512(high_nibbles(words[i]), odd));
        }
      }
    }
  }
};

template <>
struct Columns<UnpackQ6_K> {
  static constexpr bool kThere = true;
  static void scales(Rows rows, ColumnScales& out) {
    __m512i words[4];
    load_columns(rows, offsetof(BlockQ6_K, scales), words);
    for (int group = 0; group < 16; ++group) out.scale[group] = signed_byte_of(words[group / 4], group % 4);
    out.d = column_halves(rows, offsetof(BlockQ6_K, d));
  }
  template <class Store>
  static void values(Rows rows, const Store& store) {
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 2; ++part) {
        __m512i high[4], first[4], second[4];  // bytes 0..31 and 32..63 of the low bits
        load_columns(rows, offsetof(BlockQ6_K, high) + 32 * half + 16 * part, high);
        load_columns(rows, 64 * half + 16 * part, first);
        load_columns(rows, 64 * half + 32 + 16 * part, second);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const int word = 32 * half + 4 * part + i;
          store(word, _mm512_or_si512(low_nibbles(first[i]), bits_of(high[i], -4, 0x30)));
          store(word + 8, _mm512_or_si512(low_nibbles(second[i]), bits_of(high[i], -2, 0x30)));
          store(word + 16, _mm512_or_si512(high_nibbles(first[i]), bits_of(high[i], 0, 0x30)));
          store(word + 24, _mm512_or_si512(high_nibbles(second[i]), bits_of(high[i], 2, 0x30)));
        }
      }
    }
  }
};

template <>
struct Columns<UnpackQ2_K> {
  static constexpr bool kThere = true;
  static void scales(Rows rows, ColumnScales& out) {
    __m512i words[4];
    load_columns(rows, 0, words);
    for (int group = 0; group < 16; ++group) {
      const __m512i both = byte_of(words[group / 4], group % 4);
      out.scale[group] = low_nibbles(both);
      out.min[group] = _mm512_srli_epi32(both, 4);
    }
    out.d = column_halves(rows, offsetof(BlockQ2_K, d));
    out.dmin = column_halves(rows, offsetof(BlockQ2_K, dmin));
  }
  template <class Store>
  static void values(Rows rows, const Store& store) {
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 2; ++part) {
        __m512i words[4];
        load_columns(rows, offsetof(BlockQ2_K, q) + 32 * half + 16 * part, words);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) store(32 * half + 8 * j + 4 * part + i, bits_of(words[i], 2 * j, 3));
        }
      }
    }
  }
};

template <>
struct Columns<UnpackQ3_K> {
  static constexpr bool kThere = true;
  static void scales(Rows rows, ColumnScales& out) {
    __m512i w[4];
    load_columns(rows, sizeof(BlockQ3_K) - 16, w);  // two bytes of `low`, the scales, d
    const auto across = [&](int i) {
      return _mm512_or_si512(_mm512_srli_epi32(w[i], 16), _mm512_slli_epi32(w[i + 1], 16));
    };
    const __m512i a = across(0), b = across(1), top = across(2);
    const __m512i joined[4] = {_mm512_or_si512(low_nibbles(a), bits_of(top, -4, 0x30)),
                               _mm512_or_si512(low_nibbles(b), bits_of(top, -2, 0x30)),
                               _mm512_or_si512(high_nibbles(a), bits_of(top, 0, 0x30)),
                               _mm512_or_si512(high_nibbles(b), bits_of(top, 2, 0x30))};
    for (int group = 0; group < 16; ++group) {
      out.scale[group] = _mm512_sub_epi32(byte_of(joined[group / 4], group % 4), _mm512_set1_epi32(32));
    }
    out.d = high_half_floats(w[3]);
  }
  template <class Store>
  static void values(Rows rows, const Store& store) {
    for (int part = 0; part < 2; ++part) {
      __m512i high[4], low[4];
      load_columns(rows, offsetof(BlockQ3_K, high) + 16 * part, high);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        load_columns(rows, offsetof(BlockQ3_K, low) + 32 * half + 16 * part, low);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const __m512i third = bits_of(high[i], 4 * half + j - 2, 4);
            store(32 * half + 8 * j + 4 * part + i, _mm512_or_si512(bits_of(low[i], 2 * j, 3), third));
          }
        }
      }
    }
  }
};

}  // namespace pronk::avx512
