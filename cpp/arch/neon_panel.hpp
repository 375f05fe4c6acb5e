// A panel: 16 weight rows unpacked and transposed into scratch memory, once for all rows of x.
//
//   values   [k / kWordBytes][16 rows][kWordBytes]  signed bytes
//   K-quants, for each block of 256:
//   scales   [groups][16]        int32
//   mins     [groups][16]        int16
//   32-value types:
//   d, m     [k / 32][16]        float
#pragma once

#include "arch/neon_grids.hpp"

namespace pronk::PRONK_ISA {

constexpr int kStripRows = 16;  // weight rows of a panel

// One value of each weight row of the panel.
struct alignas(64) PanelRow {
  float lane[kStripRows];
};

// The columns of a 16 x 16 square of 32-bit words, whose rows are `stride` bytes apart.
inline void load_columns(const void* rows, int stride, Vec16 (&square)[16]) {
  for (int i = 0; i < 16; ++i) {
    square[i] = load(reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(rows) + i * stride));
  }
  transpose16(square);  // moves bits only: it does not matter that these are no floats
}

// 64 values of 16 rows into the panel.
inline void transpose_values(const std::int8_t* rows, int stride, std::int8_t* out) {
  Vec16 columns[16];
  load_columns(rows, stride, columns);
  store_columns(columns, out);
}

// What the next piece will want at this place of a weight row: 16 rows are more streams than the hardware's own
// prefetcher likes to follow.
inline void prefetch_next(const void* here, std::size_t piece_bytes, std::size_t bytes) {
  const char* next = static_cast<const char*>(here) + piece_bytes;
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
}

template <class Unpacker>
struct Panel256 {
  static constexpr int kPieceBlocks = 2;
  static constexpr int kGroups = 256 / Unpacker::kGroup, kEights = kGroups / 8;
  struct alignas(64) Block {
    std::int8_t values[256 * 16];
    std::int32_t scales[kGroups][16];
    std::int16_t mins[Unpacker::kMins ? kGroups : 0][16];
    float d[16], dmin[16];
  };

  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, Block& out) {
    alignas(64) std::int8_t values[16][256];
    alignas(64) std::int16_t factors[16][32] = {};  // scales, from 16 on mins
    for (int r = 0; r < 16; ++r) {
      const int row = r < rows ? r : rows - 1;  // a panel that is not full repeats its last row
      const auto& in = reinterpret_cast<const typename Unpacker::Block*>(weights + row * row_bytes)[block];
      prefetch_next(&in, kPieceBlocks * sizeof(in), sizeof(in));
      Values256 q;
      int16x8_t scale[kEights], min[kEights];
      Unpacker::values(in, q);
      for (int i = 0; i < 16; ++i) vst1q_s8(values[r] + 16 * i, q[i]);
      Unpacker::scales(in, scale, min);
      for (int i = 0; i < kEights; ++i) {
        vst1q_s16(factors[r] + 8 * i, scale[i]);
        if constexpr (Unpacker::kMins) vst1q_s16(factors[r] + 16 + 8 * i, min[i]);
      }
      const float32x2_t floats = Unpacker::floats(in);
      out.d[r] = vget_lane_f32(floats, 0);
      out.dmin[r] = vget_lane_f32(floats, 1);
    }
    for (int i = 0; i < 4; ++i) transpose_values(values[0] + 64 * i, 256, out.values + 64 * 16 * i);
    Vec16 columns[16];  // pairs of scales, from the eighth on of mins
    load_columns(factors, 64, columns);
    for (int pair = 0; pair < kGroups / 2; ++pair) {
      for (int i = 0; i < 4; ++i) {
        const int32x4_t both = vreinterpretq_s32_f32(columns[pair].v[i]);
        vst1q_s32(out.scales[2 * pair] + 4 * i, vshrq_n_s32(vshlq_n_s32(both, 16), 16));
        vst1q_s32(out.scales[2 * pair + 1] + 4 * i, vshrq_n_s32(both, 16));
      }
      if constexpr (Unpacker::kMins) {
        for (int i = 0; i < 2; ++i) {
          const int16x8_t first = vreinterpretq_s16_f32(columns[8 + pair].v[2 * i]);
          const int16x8_t second = vreinterpretq_s16_f32(columns[8 + pair].v[2 * i + 1]);
          vst1q_s16(out.mins[2 * pair] + 8 * i, vuzp1q_s16(first, second));
          vst1q_s16(out.mins[2 * pair + 1] + 8 * i, vuzp2q_s16(first, second));
        }
      }
    }
  }
};

template <class Unpacker>
struct Panel32 {
  static constexpr int kPieceUnits = 4;  // of four blocks: one for each chain
  struct alignas(64) Block {             // four blocks of 32 values
    std::int8_t values[128 * 16];
    float d[4][16];
    float m[Unpacker::kMins ? 4 : 0][16];
  };

  // `blocks`: how many of the four there are.
  static void pack(const std::uint8_t* weights, std::int64_t row_bytes, int rows, int block, int blocks, Block& out) {
    alignas(64) std::int8_t values[16][128];
    for (int r = 0; r < 16; ++r) {
      const int row = r < rows ? r : rows - 1;
      const auto* in = reinterpret_cast<const typename Unpacker::Block*>(weights + row * row_bytes) + block;
      prefetch_next(in, kPieceUnits * 4 * sizeof(*in), 4 * sizeof(*in));
      for (int b = 0; b < blocks; ++b) {
        Values32 q;
        Unpacker::values(in[b], q);
        vst1q_s8(values[r] + 32 * b, q[0]);
        vst1q_s8(values[r] + 32 * b + 16, q[1]);
        out.d[b][r] = block_scale(in[b]);
        if constexpr (Unpacker::kMins) out.m[b][r] = half(in[b].m);
      }
    }
    transpose_values(values[0], 128, out.values);
    if (blocks > 2) transpose_values(values[0] + 64, 128, out.values + 64 * 16);
  }
};

}  // namespace pronk::PRONK_ISA
