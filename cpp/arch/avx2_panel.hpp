// A panel: 16 weight rows unpacked and transposed into scratch memory, once for all rows of x.
//
//   values   [plane][k / 4][16 rows][4]  unsigned bytes
//   K-quants, for each block of 256:
//   scales   [16][16]            int16 pairs (scale, scale), of one group of 16 values
//   corrections [8][16]          int16 pairs: -kOffset * scale, of two groups of 16
//   mins     [8][16]             int16 pairs: mins of two groups of 16
//   32-value types:
//   d, m     [k / 32][16]        float
//
// vpmaddubsw adds pairs of products in int16 and saturates, so what counts is how many products fit there: kSlice
// values of k, four to a 32-bit lane, give kSlice / 2 products for each int16. Bytes above 127 would not even leave
// room for two: they go into two planes of nibbles, each a panel of four-bit values (u = 16 * second + first).
#pragma once

#include "arch/avx2_unpack.hpp"

namespace pronk::avx2 {

constexpr int kStripRows = 16;  // weight rows of a panel: lanes of two registers

template <class Unpacker>
struct PanelShape {
  static constexpr int kPlanes = Unpacker::kBits > 7 ? 2 : 1;
  static constexpr int kPlaneBits = Unpacker::kBits / kPlanes;
  static constexpr int kMostSlice = 32 >> (kPlaneBits - 4);
  static constexpr int kSlice = kMostSlice < group_of<Unpacker>() ? kMostSlice : group_of<Unpacker>();
  static_assert(kPlaneBits >= 4 && kSlice / 2 * ((1 << kPlaneBits) - 1) * 127 <= 32767);
};

// Writes a 16 x 16 square of 32-bit words (rows `stride` bytes apart) as its columns, one after the other.
inline void transpose_words(const void* rows, int stride, void* out) {
  Vec16 square[16];
  for (int i = 0; i < 16; ++i) {
    square[i] = load(reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(rows) + i * stride));
  }
  transpose16(square);  // moves bits only: it does not matter that these are no floats
  for (int i = 0; i < 16; ++i) store(static_cast<float*>(out) + 16 * i, square[i]);
}

// What the next piece will want at this place of a weight row: 16 rows are more streams than the hardware's own
// prefetcher likes to follow.
inline void prefetch_next(const void* here, std::size_t piece_bytes, std::size_t bytes) {
  const char* next = static_cast<const char*>(here) + piece_bytes;
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
}

template <class Unpacker>
struct Panel256 : PanelShape<Unpacker> {
  static constexpr int kPieceBlocks = 2;
  using PanelShape<Unpacker>::kPlanes;
  struct alignas(64) Block {
    std::uint8_t values[kPlanes][64][16][4];
    std::int32_t scales[16][16];
    std::int32_t corrections[Unpacker::kOffset != 0 ? 8 : 0][16];
    std::int32_t mins[Unpacker::kMins ? 8 : 0][16];
    float d[16], dmin[16];
  };

  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, Block& out) {
    alignas(64) std::uint8_t values[kPlanes][16][256];
    alignas(64) std::int16_t factors[16][2][16];  // scales and mins
    for (int r = 0; r < 16; ++r) {
      const int row = r < rows ? r : rows - 1;  // a panel that is not full repeats its last row
      const auto& in = reinterpret_cast<const typename Unpacker::Block*>(weights + row * row_bytes)[block];
      prefetch_next(&in, kPieceBlocks * sizeof(in), sizeof(in));
      __m256i u[8], scale, min = _mm256_setzero_si256();
      Unpacker::values(in, u);
      for (int i = 0; i < 8; ++i) {
        if constexpr (kPlanes == 2) {
          store_256(values[0][r] + 32 * i, low_nibbles(u[i]));
          store_256(values[1][r] + 32 * i, high_nibbles(u[i]));
        } else {
          store_256(values[0][r] + 32 * i, u[i]);
        }
      }
      Unpacker::scales(in, scale, min);
      store_256(factors[r][0], scale);
      store_256(factors[r][1], min);
      const __m128 floats = Unpacker::floats(in);
      out.d[r] = _mm_cvtss_f32(floats);
      out.dmin[r] = _mm_cvtss_f32(_mm_movehdup_ps(floats));
    }
    for (int plane = 0; plane < kPlanes; ++plane) {
      for (int i = 0; i < 4; ++i) transpose_words(values[plane][0] + 64 * i, 256, out.values[plane][16 * i]);
    }
    alignas(64) std::int32_t columns[16][16];  // pairs of scales in the first eight, of mins in the others
    transpose_words(factors, 64, columns);
    for (int pair = 0; pair < 8; ++pair) {
      for (int half = 0; half < 2; ++half) {
        const __m256i both = load_256(columns[pair] + 8 * half);
        const __m256i even = _mm256_and_si256(both, _mm256_set1_epi32(0xffff)), odd = _mm256_srli_epi32(both, 16);
        store_256(out.scales[2 * pair] + 8 * half, _mm256_or_si256(even, _mm256_slli_epi32(even, 16)));
        store_256(out.scales[2 * pair + 1] + 8 * half, _mm256_or_si256(odd, _mm256_slli_epi32(odd, 16)));
        if constexpr (Unpacker::kOffset != 0) {
          store_256(out.corrections[pair] + 8 * half, _mm256_mullo_epi16(both, _mm256_set1_epi16(-Unpacker::kOffset)));
        }
      }
    }
    if constexpr (Unpacker::kMins) __builtin_memcpy(out.mins, columns[8], sizeof(out.mins));
  }
};

template <class Unpacker>
struct Panel32 : PanelShape<Unpacker> {
  using PanelShape<Unpacker>::kPlanes;
  static constexpr int kPieceUnits = 4;  // of four blocks: one for each chain
  struct alignas(64) Block {             // four blocks of 32 values
    std::uint8_t values[kPlanes][32][16][4];
    float d[4][16];
    float m[Unpacker::kMins ? 4 : 0][16];
  };

  // `blocks`: how many of the four there are.
  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, int blocks, Block& out) {
    alignas(64) std::uint8_t values[kPlanes][16][128];
    for (int r = 0; r < 16; ++r) {
      const int row = r < rows ? r : rows - 1;
      const auto* in = reinterpret_cast<const typename Unpacker::Block*>(weights + row * row_bytes) + block;
      prefetch_next(in, kPieceUnits * 4 * sizeof(*in), 4 * sizeof(*in));
      for (int b = 0; b < blocks; ++b) {
        const __m256i u = Unpacker::values(in[b]);
        if constexpr (kPlanes == 2) {
          store_256(values[0][r] + 32 * b, low_nibbles(u));
          store_256(values[1][r] + 32 * b, high_nibbles(u));
        } else {
          store_256(values[0][r] + 32 * b, u);
        }
        out.d[b][r] = block_scale(in[b]);
        if constexpr (Unpacker::kMins) out.m[b][r] = half(in[b].m);
      }
    }
    for (int plane = 0; plane < kPlanes; ++plane) {
      transpose_words(values[plane], 128, out.values[plane]);
      if (blocks > 2) transpose_words(values[plane][0] + 64, 128, out.values[plane][16]);
    }
  }
};

}  // namespace pronk::avx2
