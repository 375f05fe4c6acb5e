// Few rows of x: dot products along K, straight from the file's bytes. Memory sets the speed, so one weight row follows
// the other in the order of the file, fetched kPrefetchBytes ahead; unpacked values serve up to four rows of x.
#pragma once

#include "arch/avx2_grids.hpp"

namespace pronk::avx2 {

// Sums of two neighbouring products in 16 lanes of int16. vpmaddubsw takes unsigned by signed bytes and saturates. Up
// to 7 bits any pair fits; of 8 bits, |w| takes the place of u, and the sign goes to a: 2 * 128 * 127 at most.
template <class Unpacker>
inline __m256i pair_products(__m256i u, __m256i a) {
  if constexpr (Unpacker::kBits == 8) {
    const __m256i w = flip_signs(u);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  }
  return _mm256_maddubs_epi16(u, a);
}

inline constexpr int log2_of(int power) {
  return power <= 1 ? 0 : 1 + log2_of(power / 2);
}

inline void prefetch_ahead(const void* here, std::size_t bytes) {
  const char* p = static_cast<const char*>(here) + kPrefetchBytes;
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// [sum of a, sum of b, the same, the same]
inline __m128i sum_both(__m256i a, __m256i b) {
  const __m256i pairs = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));  // a b a b, twice
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  return _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
}

// A K-quant's weight row against kTokens rows of x. acc = [sum of values, sum of mins, -, -].
template <class Unpacker, int kTokens>
inline void dot_row_256(const std::uint8_t* row, const Activations& x, int first_token, int blocks, float* out,
                        std::int64_t out_stride) {
  const auto* weights = reinterpret_cast<const typename Unpacker::Block*>(row);
  __m128 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = _mm_setzero_ps();
  for (int b = 0; b < blocks; ++b) {
    const auto& block = weights[b];
    prefetch_ahead(&block, sizeof(block));
    __m256i u[8], scale, min = _mm256_setzero_si256();
    Unpacker::values(block, u);
    Unpacker::scales(block, scale, min);
    // Lanes 0..7 of a product are one group, 8..15 the next: scales 2i and 2i + 1, from the register's two halves.
    const __m256i low = _mm256_permute4x64_epi64(scale, 0x44), high = _mm256_permute4x64_epi64(scale, 0xee);
    __m256i lane_scale[8];
    for (int i = 0; i < 8; ++i) {
      const auto first = static_cast<short>(0x0100 + 0x0404 * (i % 4)), second = static_cast<short>(first + 0x0202);
      const __m256i pick = _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first));
      lane_scale[i] = _mm256_shuffle_epi8(i < 4 ? low : high, pick);
    }
    const __m128 floats = Unpacker::floats(block);
    for (int t = 0; t < kTokens; ++t) {
      const std::int64_t at = static_cast<std::int64_t>(first_token + t) * x.stride + 256 * b;
      __m256i sum = _mm256_setzero_si256(), min_sum = _mm256_setzero_si256();
      for (int i = 0; i < 8; ++i) {
        const __m256i products = pair_products<Unpacker>(u[i], load_256(x.int8.q + at + 32 * i));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, lane_scale[i]));
        keep(sum);
      }
      const __m256i group_sums = load_256(x.int8.sums16 + at / 16);
      if constexpr (Unpacker::kOffset != 0 && Unpacker::kBits != 8) {
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

// In each half: [a0 + a2, a1 + a3, b0 + b2, b1 + b3]. One shuffle, where vphaddd takes two.
inline __m256i add_pairs_of(__m256i a, __m256i b) {
  return _mm256_add_epi32(_mm256_blend_epi32(a, b, 0xcc), _mm256_alignr_epi8(b, a, 8));
}

// The sums of four vectors' lanes.
inline __m128i sum_each(const __m256i (&v)[4]) {
  const __m256i sums = _mm256_hadd_epi32(add_pairs_of(v[0], v[1]), add_pairs_of(v[2], v[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

// 16 blocks' numbers as four vectors: number i of each chain (matmul.hpp) in vector i.
inline __attribute__((always_inline)) void by_chain(const float* p, __m128 (&of)[4]) {
  for (int chain = 0; chain < 4; ++chain) of[chain] = _mm_loadu_ps(p + 4 * chain);
  _MM_TRANSPOSE4_PS(of[0], of[1], of[2], of[3]);
}

// The fp16 numbers of blocks i, 4 + i, 8 + i, 12 + i, which lie `bytes` apart.
inline __m128 four_halves(const Half* first, std::size_t bytes) {
  const auto* p = reinterpret_cast<const char*>(first);
  std::uint64_t bits = 0;  // put together here, since the vector units' shuffles are what this kernel waits for
  for (unsigned chain = 0; chain < 4; ++chain) {
    std::uint16_t word;
    __builtin_memcpy(&word, p + chain * bytes, 2);
    bits |= static_cast<std::uint64_t>(word) << 16 * chain;
  }
  return _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<long long>(bits)));
}

// The scales of those blocks.
template <class Block>
inline __m128 four_scales(const Block* first) {
  if constexpr (__is_same(Block, BlockMXFP4)) {
    return powers_of_two(_mm_set_epi32(first[12].e, first[8].e, first[4].e, first[0].e));
  } else {
    return four_halves(&first->d, 4 * sizeof(Block));
  }
}

template <int kTokens>
struct Chains {
  __m128 values[kTokens], mins[kTokens];
};

// 16 blocks (512 values) of a weight row against kTokens rows of x at value `at`: block 4 * chain + i is the i-th that
// its chain takes, so the four chains go side by side.
template <class Unpacker, int kTokens>
inline __attribute__((always_inline)) void dot_16_blocks(const typename Unpacker::Block* blocks, const Activations& x,
                                                         int first_token, int at, Chains<kTokens>& chains) {
  // -kOffset * (sum of a) is start (-128 * that sum) >> kShift. Signed weights, as pair_products takes 8 bits, need
  // none.
  constexpr int kShift = Unpacker::kOffset == 0 || Unpacker::kBits == 8 ? -1 : 7 - log2_of(Unpacker::kOffset);
  const __m256i ones = _mm256_set1_epi16(1);
  const std::int64_t first_place = static_cast<std::int64_t>(first_token) * x.stride + at;
  __m128 scale[kTokens][4], start[kTokens][4], scaled_sum[kTokens][4];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    const std::int64_t place = (first_place + t * x.stride) / 32;
    by_chain(x.int8.scale + place, scale[t]);
    // These are int32, but are only moved as floats.
    if constexpr (kShift >= 0) by_chain(reinterpret_cast<const float*>(x.int8.start + place), start[t]);
    if constexpr (Unpacker::kMins) by_chain(x.int8.scaled_sum + place, scaled_sum[t]);
  }
#pragma GCC unroll 1  // or compilers would spread the sixteen blocks over more registers than there are
  for (int i = 0; i < 4; ++i) {
    __m256i u[4];
    for (int chain = 0; chain < 4; ++chain) u[chain] = Unpacker::values(blocks[4 * chain + i]);
    const __m128 d = four_scales(blocks + i);
    __m128 m = _mm_setzero_ps();
    if constexpr (Unpacker::kMins) m = four_halves(&blocks[i].m, 4 * sizeof(*blocks));
#pragma GCC unroll 1
    for (int t = 0; t < kTokens; ++t) {
      const std::int8_t* a = x.int8.q + first_place + t * x.stride + 32 * i;
      __m256i dots[4];
      for (int chain = 0; chain < 4; ++chain) {
        dots[chain] = _mm256_madd_epi16(pair_products<Unpacker>(u[chain], load_256(a + 128 * chain)), ones);
      }
      __m128i sum = sum_each(dots);
      if constexpr (kShift >= 0) sum = _mm_add_epi32(sum, _mm_srai_epi32(_mm_castps_si128(start[t][i]), kShift));
      chains.values[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(d, scale[t][i]), chains.values[t]);
      if constexpr (Unpacker::kMins) chains.mins[t] = _mm_fmadd_ps(m, scaled_sum[t][i], chains.mins[t]);
    }
  }
}

inline float chain_sum(__m128 v) {
  const __m128 pairs = _mm_add_ps(v, _mm_movehl_ps(v, v));  // 0 + 2, 1 + 3
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
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
    prefetch_ahead(weights + b, 16 * sizeof(Block));
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

// A weight row against rows [first, x.rows) of x, kTokens at a time and then fewer.
template <class Unpacker, int kTokens>
inline void dot_rows(const std::uint8_t* row, const Activations& x, int first, int cols, float* out,
                     std::int64_t out_stride) {
  for (; first + kTokens <= x.rows; first += kTokens) {
    if constexpr (Unpacker::kValues == 256) {
      dot_row_256<Unpacker, kTokens>(row, x, first, cols / 256, out + first * out_stride, out_stride);
    } else {
      dot_row_32<Unpacker, kTokens>(row, x, first, cols / 32, out + first * out_stride, out_stride);
    }
  }
  if constexpr (kTokens > 1) dot_rows<Unpacker, kTokens - 1>(row, x, first, cols, out, out_stride);
}

constexpr int kRowTokens = 4;  // rows of x that one unpacking of a weight row serves

template <class Unpacker>
inline void few_rows(const MatmulTask& task) {
  for (int r = 0; r < task.rows; ++r) {
    const std::uint8_t* row = task.weights + r * task.row_bytes;
    dot_rows<Unpacker, kRowTokens>(row, *task.x, 0, task.cols, task.out + r, task.out_stride);
  }
}

}  // namespace pronk::avx2
