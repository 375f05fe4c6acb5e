// Few rows of x: dot products along K, straight from the file's bytes. Memory sets the speed, so one weight row follows
// the other in the order of the file, fetched kPrefetchBytes ahead;
// unpacked values serve up to four rows of x from registers.
#pragma once

#include "arch/avx512_grids.hpp"

namespace pronk::avx512 {

inline __m256i fold(__m512i v) {
  return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
}

// [sum of a, sum of b, the same, the same]
inline __m128i sum_both(__m256i a, __m256i b) {
  const __m256i pairs = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));  // a b a b, twice
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  return _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
}

inline constexpr int log2_of(int power) {
  return power == 1 ? 0 : 1 + log2_of(power / 2);
}

// A K-quant's weight row against kTokens rows of x. acc = [sum of values, sum of mins, -, -].
template <class Unpacker, int kTokens>
inline void dot_row_256(const std::uint8_t* row, const Activations& x, int first_token, int blocks, float* out,
                        std::int64_t out_stride) {
  using Block = typename Unpacker::Block;
  const auto* weights = reinterpret_cast<const Block*>(row);
  // Vector i holds 4 groups of 16 values: after vpmaddubsw, 4 x 8 lanes of int16.
  const __m512i lane_group = _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                                              0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0);
  __m128 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = _mm_setzero_ps();
  for (int b = 0; b < blocks; ++b) {
    const Block& block = weights[b];
    for (unsigned i = 0; i < sizeof(Block); i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(&block) + kPrefetchBytes + i, _MM_HINT_T0);
    }
    __m512i q[4], lane_scale[4];
    __m256i scale, min = _mm256_setzero_si256();
    Unpacker::values(block, q);
    Unpacker::scales(block, scale, min);
    for (int i = 0; i < 4; ++i) {
      const __m512i index = _mm512_add_epi16(lane_group, _mm512_set1_epi16(static_cast<short>(4 * i)));
      lane_scale[i] = _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(scale));
    }
    // Bytes of 8 bits would not fit: there |w| takes the place of u, and the sign goes to a.
    constexpr bool kSigned = Unpacker::kOffset == 128;
    __mmask64 negative[4];
    if constexpr (kSigned) {
      for (int i = 0; i < 4; ++i) {
        const __m512i w = _mm512_xor_si512(q[i], _mm512_set1_epi8(static_cast<char>(0x80)));
        negative[i] = _mm512_movepi8_mask(w);
        q[i] = _mm512_abs_epi8(w);
      }
    }
    const __m128 floats = Unpacker::floats(block);
    for (int t = 0; t < kTokens; ++t) {
      const std::int64_t at = static_cast<std::int64_t>(first_token + t) * x.stride + 256 * b;
      const std::int8_t* a = x.int8.q + at;
      // Pair sums fit int16: 2 * 127 * 127 at most. The scale is applied to them in integers.
      const auto products = [&](int i) __attribute__((always_inline)) {
        __m512i values = load_512(a + 64 * i);
        if constexpr (kSigned) values = _mm512_mask_sub_epi8(values, negative[i], _mm512_setzero_si512(), values);
        return _mm512_maddubs_epi16(q[i], values);
      };
      __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
      even = _mm512_dpwssd_epi32(even, products(0), lane_scale[0]);
      odd = _mm512_dpwssd_epi32(odd, products(1), lane_scale[1]);
      even = _mm512_dpwssd_epi32(even, products(2), lane_scale[2]);
      odd = _mm512_dpwssd_epi32(odd, products(3), lane_scale[3]);
      __m256i sum = fold(_mm512_add_epi32(even, odd)), min_sum = _mm256_setzero_si256();
      const __m256i group_sums = load_256(x.int8.sums16 + at / 16);
      if constexpr (Unpacker::kOffset != 0 && !kSigned) {
        const __m256i offsets = _mm256_madd_epi16(scale, group_sums);
        sum = _mm256_sub_epi32(sum, _mm256_slli_epi32(offsets, log2_of(Unpacker::kOffset)));
      }
      if constexpr (Unpacker::kMins) min_sum = _mm256_madd_epi16(min, group_sums);
      const __m128 factor = _mm_mul_ps(floats, _mm_set1_ps(x.int8.scale[at / 256]));
      acc[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum_both(sum, min_sum)), factor, acc[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const float values = _mm_cvtss_f32(acc[t]), mins = _mm_cvtss_f32(_mm_movehdup_ps(acc[t]));
    out[t * out_stride] = Unpacker::kMins ? values - mins : values;
  }
}

// Element 4i + e of a vector in which lane i (128 bits) holds four sums is, for 32-value types, the sum of block i +
// 4e: the order in which the tree below leaves them. This brings scales into that order.
inline __m512i tree_order() {
  return _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
}

// v[e] holds blocks 4e .. 4e + 3, one in each 128-bit lane, as four partial sums.
inline __m512i sum_lanes(const __m512i* v) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));  // 0 1 0 1
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));  // 2 3 2 3
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// The four chains of matmul.hpp, one in each element: chain e takes the blocks 4e, 4e + 1, 4e + 2, 4e + 3 in order.
inline __m128 add_to_chains(__m512 values, __m512 factors, __m128 chains) {
  chains = _mm_fmadd_ps(_mm512_castps512_ps128(values), _mm512_castps512_ps128(factors), chains);
  chains = _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 1), _mm512_extractf32x4_ps(factors, 1), chains);
  chains = _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 2), _mm512_extractf32x4_ps(factors, 2), chains);
  return _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 3), _mm512_extractf32x4_ps(factors, 3), chains);
}

inline float chain_sum(__m128 v) {
  const __m128 pairs = _mm_add_ps(v, _mm_movehl_ps(v, v));  // 0 + 2, 1 + 3
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

// The scales (d, and m where there is one) of 16 blocks, in tree order.
template <class Unpacker>
inline void block_floats(const typename Unpacker::Block* blocks, __m512& d, __m512& m) {
  if constexpr (__is_same(typename Unpacker::Block, BlockMXFP4)) {
    alignas(16) std::uint8_t exponents[16];
    for (int b = 0; b < 16; ++b) exponents[b % 4 * 4 + b / 4] = blocks[b].e;
    d = powers_of_two(_mm512_cvtepu8_epi32(load_128(exponents)));
  } else {
    alignas(64) std::uint16_t d_words[16];
    alignas(64) std::uint16_t m_words[16];
    for (int b = 0; b < 16; ++b) {
      const int place = b % 4 * 4 + b / 4;
      if constexpr (Unpacker::kMins) {
        const std::uint32_t both = load_u32(&blocks[b]);
        d_words[place] = static_cast<std::uint16_t>(both);
        m_words[place] = static_cast<std::uint16_t>(both >> 16);
      } else {
        __builtin_memcpy(&d_words[place], &blocks[b].d, 2);
      }
    }
    d = _mm512_cvtph_ps(load_256(d_words));
    if constexpr (Unpacker::kMins) m = _mm512_cvtph_ps(load_256(m_words));
  }
}

template <int kTokens>
struct Chains {
  __m128 values[kTokens], mins[kTokens];
};

// 16 blocks (512 values) of a weight row against kTokens rows of x at value `at`.
template <class Unpacker, int kTokens>
inline void dot_16_blocks(const typename Unpacker::Block* blocks, const Activations& x, int first_token, int at,
                          Chains<kTokens>& chains) {
  __m512i dots[kTokens][4];
  for (int e = 0; e < 4; ++e) {
    __m512i first, second;
    Unpacker::values(blocks + 4 * e, first, second);
    for (int t = 0; t < kTokens; ++t) {
      const std::int8_t* a = x.int8.q + static_cast<std::int64_t>(first_token + t) * x.stride + at + 128 * e;
      const __m512i a01 = load_512(a), a23 = load_512(a + 64);  // each two blocks of 16 + 16 values
      const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first, _mm512_shuffle_i64x2(a01, a23, 0x88));
      dots[t][e] = _mm512_dpbusd_epi32(sums, second, _mm512_shuffle_i64x2(a01, a23, 0xdd));
    }
  }
  __m512 d, m = _mm512_setzero_ps();
  block_floats<Unpacker>(blocks, d, m);
  const __m512i order = tree_order();
  for (int t = 0; t < kTokens; ++t) {
    const std::int64_t place = (static_cast<std::int64_t>(first_token + t) * x.stride + at) / 32;
    __m512i sums = sum_lanes(dots[t]);
    if constexpr (Unpacker::kOffset != 0) {
      const __m512i start = _mm512_srai_epi32(load_512(x.int8.start + place), 7 - log2_of(Unpacker::kOffset));
      sums = _mm512_add_epi32(sums, _mm512_permutexvar_epi32(order, start));  // - kOffset * (sum of a)
    }
    const __m512 scale = _mm512_permutexvar_ps(order, _mm512_loadu_ps(x.int8.scale + place));
    chains.values[t] = add_to_chains(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(d, scale), chains.values[t]);
    if constexpr (Unpacker::kMins) {
      const __m512 scaled_sum = _mm512_permutexvar_ps(order, _mm512_loadu_ps(x.int8.scaled_sum + place));
      chains.mins[t] = add_to_chains(m, scaled_sum, chains.mins[t]);
    }
  }
}

template <class Unpacker, int kTokens>
inline void dot_row_32(const std::uint8_t* row, const Activations& x, int first_token, int blocks, float* out,
                       std::int64_t out_stride) {
  using Block = typename Unpacker::Block;
  const auto* weights = reinterpret_cast<const Block*>(row);
  Chains<kTokens> chains;
  for (int t = 0; t < kTokens; ++t) chains.values[t] = chains.mins[t] = _mm_setzero_ps();
  int b = 0;
  for (; b + 16 <= blocks; b += 16) {
    for (unsigned i = 0; i < 16 * sizeof(Block); i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + b) + kPrefetchBytes + i, _MM_HINT_T0);
    }
    dot_16_blocks<Unpacker, kTokens>(weights + b, x, first_token, 32 * b, chains);
  }
  if (b < blocks) {  // the last few, beside blocks of zeros: the file may end behind them
    Block padded[16] = {};
    __builtin_memcpy(static_cast<void*>(padded), weights + b, static_cast<unsigned>(blocks - b) * sizeof(Block));
    dot_16_blocks<Unpacker, kTokens>(padded, x, first_token, 32 * b, chains);
  }
  for (int t = 0; t < kTokens; ++t) {
    const float values = chain_sum(chains.values[t]);
    out[t * out_stride] = Unpacker::kMins ? values + chain_sum(chains.mins[t]) : values;
  }
}

template <class Unpacker, int kTokens>
inline void dot_row(const std::uint8_t* row, const Activations& x, int first_token, int cols, float* out,
                    std::int64_t out_stride) {
  if constexpr (Unpacker::kValues == 256) {
    dot_row_256<Unpacker, kTokens>(row, x, first_token, cols / 256, out, out_stride);
  } else {
    dot_row_32<Unpacker, kTokens>(row, x, first_token, cols / 32, out, out_stride);
  }
}

template <class Unpacker>
inline void few_rows(const MatmulTask& task) {
  const Activations& x = *task.x;
  for (int r = 0; r < task.rows; ++r) {
    const std::uint8_t* row = task.weights + r * task.row_bytes;
    for (int t = 0; t < x.rows; t += 4) {
      float* out = task.out + t * task.out_stride + r;
      switch (x.rows - t) {
        case 1:
          dot_row<Unpacker, 1>(row, x, t, task.cols, out, task.out_stride);
          break;
        case 2:
          dot_row<Unpacker, 2>(row, x, t, task.cols, out, task.out_stride);
          break;
        case 3:
          dot_row<Unpacker, 3>(row, x, t, task.cols, out, task.out_stride);
          break;
        default:
          dot_row<Unpacker, 4>(row, x, t, task.cols, out, task.out_stride);
      }
    }
  }
}

}  // namespace pronk::avx512
