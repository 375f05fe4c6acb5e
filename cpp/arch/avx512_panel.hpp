// A panel: 32 weight rows unpacked and transposed into scratch memory, once for all rows of x.
//
//   values   [k / 4][32 rows][4]  signed bytes, u - centre; x comes as a + 128
//   starts   [k / kSlice][32]     int32, -128 * (sum of the values): where the kernel's accumulators start
//   K-quants, for each block of 256:
//   scales   [groups][32]         int16 pairs (scale, 0); int32 where kWide
//   corrections [4][32]           int16 pairs: scale * (centre - offset), of two groups of 32
//   mins     [128 / kMinGroup][32] int16 pairs: mins of two groups
//   32-value types:
//   d, m     [k / 32][32]         float
//
// Pairs, because vpdpwssd multiplies pairs and adds them.
#pragma once

#include "arch/avx512_columns.hpp"

namespace pronk::avx512 {

inline std::uint8_t* as_bytes(void* p) {
  return static_cast<std::uint8_t*>(p);
}

// Writes a 16 x 16 square of 32-bit words (rows `stride` bytes apart) as its columns, 128 bytes apart.
inline void transpose_words(const std::uint8_t* rows, int stride, std::uint8_t* out) {
  Vec16 square[16];
  for (int i = 0; i < 16; ++i) square[i] = load(reinterpret_cast<const float*>(rows + i * stride));
  transpose16(square);  // moves bits only: it does not matter that these are no floats
  for (int i = 0; i < 16; ++i) store(reinterpret_cast<float*>(out + 128 * i), square[i]);
}

// rows: [32][256] bytes; out: [64][32][4].
inline void transpose_block(const std::uint8_t* rows, std::uint8_t* out) {
  for (int half = 0; half < 2; ++half) {
    for (int column = 0; column < 4; ++column) {
      transpose_words(rows + 16 * 256 * half + 64 * column, 256, out + 64 * half + 16 * 128 * column);
    }
  }
}

// values: [count][kSlice / 4][32][4]. starts[s]: -128 times the sums over slice s.
template <int kSlice>
inline void write_starts(const std::int8_t* values, int count, std::int32_t (*starts)[32]) {
  const __m512i bias = _mm512_set1_epi8(static_cast<char>(128)), none = _mm512_setzero_si512();
  for (int s = 0; s < count; ++s) {
    __m512i left = none, right = none;
    for (int word = 0; word < kSlice / 4; ++word, values += 128) {
      left = _mm512_dpbusd_epi32(left, bias, _mm512_load_si512(values));
      right = _mm512_dpbusd_epi32(right, bias, _mm512_load_si512(values + 64));
    }
    _mm512_store_si512(starts[s], _mm512_sub_epi32(none, left));
    _mm512_store_si512(starts[s] + 16, _mm512_sub_epi32(none, right));
  }
}

// What the next piece will want at this place of a weight row: 32 rows are 32 streams, more than the hardware's own
// prefetcher follows.
inline void prefetch_next(const void* here, std::size_t piece_bytes, std::size_t bytes) {
  const char* next = static_cast<const char*>(here) + piece_bytes;
  for (std::size_t i = 0; i < bytes; i += 64) _mm_prefetch(next + i, _MM_HINT_T0);
}

template <class Unpacker>
struct Panel256 {
  static constexpr int kPieceBlocks = 2;
  static constexpr int kSlices = 256 / Unpacker::kSlice;
  static constexpr bool kWide = is_wide<Unpacker>;
  // The sum asked for is of scale * (u - offset) * a, the kernel's of scale * (u - centre) * a. What is missing, for
  // each scale * a; only types with scales of 32 values have it.
  static constexpr int kCorrection = Unpacker::kCentre - Unpacker::kOffset;
  static constexpr int kGroup = Unpacker::kSlice == 32 ? 32 : 16;  // values of an entry of `scales`
  static constexpr int kMinPairs = 128 / min_group<Unpacker>;
  struct alignas(64) Block {
    std::int8_t values[64 * 32 * 4];
    std::int32_t starts[kSlices][32];
    std::int32_t scales[256 / kGroup][32];
    std::int32_t corrections[kCorrection != 0 ? 4 : 0][32];
    std::int32_t mins[Unpacker::kMins ? kMinPairs : 0][32];
    float d[32], dmin[32];
  };

  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, Block& out) {
    if constexpr (has_columns<Unpacker>) {
      for (int half = 0; half < 2; ++half) pack_columns(weights, row_bytes, rows, block, half, out);
    } else {
      pack_rows(weights, row_bytes, rows, block, out);
    }
    write_starts<Unpacker::kSlice>(out.values, kSlices, out.starts);
  }

 private:
  // Rows 16 * half to 16 * half + 15.
  static void pack_columns(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, int half,
                           Block& out) {
    constexpr std::size_t kBytes = sizeof(typename Unpacker::Block);
    const std::uint8_t* blocks[kColumnRows];
    for (int r = 0; r < kColumnRows; ++r) {
      const int row = 16 * half + r < rows ? 16 * half + r : rows - 1;  // as in pack_rows
      blocks[r] = weights + row * row_bytes + static_cast<std::size_t>(block) * kBytes;
      prefetch_next(blocks[r], kPieceBlocks * kBytes, kBytes);
    }
    const __m512i shift = _mm512_set1_epi8(static_cast<char>(-Unpacker::kCentre));
    std::int8_t* values = out.values + 64 * half;
    Columns<Unpacker>::values(blocks, [&](int word, __m512i four) __attribute__((always_inline)) {
      _mm512_store_si512(values + 128 * word, _mm512_add_epi8(four, shift));
    });
    ColumnScales in;
    Columns<Unpacker>::scales(blocks, in);
    const auto pair = [](__m512i even, __m512i odd) {
      return _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
    };
    const __m512i none = _mm512_setzero_si512();
    for (int g = 0; g < 256 / kGroup; ++g) {
      _mm512_store_si512(&out.scales[g][16 * half], pair(in.scale[g * kGroup / 16], none));
    }
    if constexpr (kCorrection != 0) {
      for (int p = 0; p < 4; ++p) {
        const __m512i both = pair(in.scale[4 * p], in.scale[4 * p + 2]);
        _mm512_store_si512(&out.corrections[p][16 * half], _mm512_mullo_epi16(both, _mm512_set1_epi16(kCorrection)));
      }
    }
    if constexpr (Unpacker::kMins) {
      constexpr int kStep = min_group<Unpacker> / 16;
      for (int p = 0; p < kMinPairs; ++p) {
        _mm512_store_si512(&out.mins[p][16 * half], pair(in.min[2 * kStep * p], in.min[2 * kStep * p + kStep]));
      }
    }
    _mm512_store_ps(out.d + 16 * half, in.d);
    if constexpr (Unpacker::kMins) _mm512_store_ps(out.dmin + 16 * half, in.dmin);
  }

  static void pack_rows(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, Block& out) {
    alignas(64) std::uint8_t values[32 * 256];
    alignas(64) std::int32_t scales[32][16], mins[32][16];  // by row: pairs (scale, 0); pairs of mins, in the first 8
    const __m512i shift = _mm512_set1_epi8(static_cast<char>(-Unpacker::kCentre));
    for (int r = 0; r < 32; ++r) {
      const int row = r < rows ? r : rows - 1;  // a panel that is not full repeats its last row
      const auto& in = reinterpret_cast<const typename Unpacker::Block*>(weights + row * row_bytes)[block];
      prefetch_next(&in, kPieceBlocks * sizeof(in), sizeof(in));
      __m512i q[4];
      Unpacker::values(in, q);
      for (int i = 0; i < 4; ++i) _mm512_store_si512(values + 256 * r + 64 * i, _mm512_add_epi8(q[i], shift));
      __m256i scale, min = _mm256_setzero_si256();
      Unpacker::scales(in, scale, min);
      _mm512_store_si512(scales[r], _mm512_and_si512(_mm512_cvtepi16_epi32(scale), _mm512_set1_epi32(0xffff)));
      _mm512_store_si512(mins[r], _mm512_castsi256_si512(min));
      const __m128 floats = Unpacker::floats(in);
      out.d[r] = _mm_cvtss_f32(floats);
      out.dmin[r] = _mm_cvtss_f32(_mm_movehdup_ps(floats));
    }
    transpose_block(values, as_bytes(out.values));
    for (int half = 0; half < 2; ++half) {
      alignas(64) std::int32_t columns[16][32];
      transpose_words(as_bytes(scales[16 * half]), 64, as_bytes(columns));
      for (int g = 0; g < 256 / kGroup; ++g) {
        __m512i scale = _mm512_load_si512(columns[g * kGroup / 16]);
        if constexpr (kWide) scale = _mm512_srai_epi32(_mm512_slli_epi32(scale, 16), 16);
        _mm512_store_si512(&out.scales[g][16 * half], scale);
      }
      static_assert(kCorrection == 0 && (!Unpacker::kMins || min_group<Unpacker> == 16));
      if constexpr (Unpacker::kMins) {
        transpose_words(as_bytes(mins[16 * half]), 64, as_bytes(columns));
        for (int pair = 0; pair < 8; ++pair) {
          _mm512_store_si512(&out.mins[pair][16 * half], _mm512_load_si512(columns[pair]));
        }
      }
    }
  }
};

template <class Unpacker>
struct Panel32 {
  static constexpr int kPieceUnits = 4;  // of four blocks: one for each chain
  struct alignas(64) Block {             // four blocks of 32 values
    std::int8_t values[32 * 32 * 4];
    std::int32_t starts[4][32];
    float d[4][32];
    float m[Unpacker::kMins ? 4 : 0][32];
  };

  // `blocks`: how many of the four there are.
  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, int blocks, Block& out) {
    using FileBlock = typename Unpacker::Block;
    alignas(64) std::uint8_t values[32 * 128];
    const __m512i shift = _mm512_set1_epi8(static_cast<char>(-Unpacker::kOffset));
    const __m512i first_half = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);  // blocks 0 and 1, each of 16 + 16 values
    const __m512i second_half = _mm512_add_epi64(first_half, _mm512_set1_epi64(4));
    for (int r = 0; r < 32; ++r) {
      const int row = r < rows ? r : rows - 1;
      const auto* in = reinterpret_cast<const FileBlock*>(weights + row * row_bytes) + block;
      prefetch_next(in, kPieceUnits * 4 * sizeof(FileBlock), 4 * sizeof(FileBlock));
      FileBlock padded[4] = {};
      if (blocks < 4) {
        __builtin_memcpy(static_cast<void*>(padded), in, static_cast<unsigned>(blocks) * sizeof(FileBlock));
        in = padded;
      }
      __m512i first, second;
      Unpacker::values(in, first, second);
      first = _mm512_add_epi8(first, shift);
      second = _mm512_add_epi8(second, shift);
      _mm512_store_si512(values + 128 * r, _mm512_permutex2var_epi64(first, first_half, second));
      _mm512_store_si512(values + 128 * r + 64, _mm512_permutex2var_epi64(first, second_half, second));
      for (int b = 0; b < 4; ++b) {
        out.d[b][r] = block_scale(in[b]);
        if constexpr (Unpacker::kMins) out.m[b][r] = half(in[b].m);
      }
    }
    for (int half = 0; half < 2; ++half) {
      for (int column = 0; column < 2; ++column) {
        transpose_words(values + 16 * 128 * half + 64 * column, 128,
                        as_bytes(out.values) + 64 * half + 16 * 128 * column);
      }
    }
    write_starts<32>(out.values, 4, out.starts);
  }
};

}  // namespace pronk::avx512
