// Few rows of x: dot products along K, straight from the file's bytes. Memory sets the speed, so one weight row follows
// the other in the order of the file, fetched kPrefetchBytes ahead; unpacked values serve up to four rows of x.
#pragma once

#include "arch/neon_grids.hpp"

namespace pronk::PRONK_ISA {

inline void prefetch_ahead(const void* here, std::size_t bytes) {
  const char* p = static_cast<const char*>(here) + kPrefetchBytes;
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// The sums of four vectors' lanes.
inline int32x4_t sum_each(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

// The dot product of one group, in four parts. Of 16 values or of 32.
template <int kGroup>
inline int32x4_t dot_group(const int8x16_t* q, const std::int8_t* a) {
  const int32x4_t first = vdotq_s32(vdupq_n_s32(0), q[0], vld1q_s8(a));
  if constexpr (kGroup == 16) return first;
  return vdotq_s32(first, q[1], vld1q_s8(a + 16));
}

// Sums of x over each group, from those over 16 values.
template <int kGroup>
inline void group_sums(const std::int16_t* sums16, int16x8_t* sums) {
  const int16x8_t first = vld1q_s16(sums16), second = vld1q_s16(sums16 + 8);
  if constexpr (kGroup == 16) {
    sums[0] = first;
    sums[1] = second;
  } else {
    sums[0] = vpaddq_s16(first, second);
  }
}

// A K-quant's weight row against kTokens rows of x. acc = [sum of values, sum of mins].
template <class Unpacker, int kTokens>
inline void dot_row_256(const std::uint8_t* row, const Activations& x, int first_token, int blocks, float* out,
                        std::int64_t out_stride) {
  constexpr int kGroup = Unpacker::kGroup, kGroups = 256 / kGroup, kEights = kGroups / 8;
  const auto* weights = reinterpret_cast<const typename Unpacker::Block*>(row);
  float32x2_t acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = vdup_n_f32(0.0f);
  for (int b = 0; b < blocks; ++b) {
    const auto& block = weights[b];
    prefetch_ahead(&block, sizeof(block));
    Values256 q;
    int16x8_t scale[kEights], min[kEights];
    Unpacker::values(block, q);
    Unpacker::scales(block, scale, min);
    int32x4_t wide[2 * kEights];  // a scale a lane
    for (int i = 0; i < kEights; ++i) {
      wide[2 * i] = vmovl_s16(vget_low_s16(scale[i]));
      wide[2 * i + 1] = vmovl_high_s16(scale[i]);
    }
    const float32x2_t floats = Unpacker::floats(block);
    for (int t = 0; t < kTokens; ++t) {
      const std::int64_t at = static_cast<std::int64_t>(first_token + t) * x.stride + 256 * b;
      int32x4_t sum = vdupq_n_s32(0), min_sum = vdupq_n_s32(0);
      for (int i = 0; i < 2 * kEights; ++i) {  // four groups
        const auto dot = [&](int g) {
          const int from = kGroup * (4 * i + g);
          return dot_group<kGroup>(q + from / 16, x.int8.q + at + from);
        };
        sum = vmlaq_s32(sum, sum_each(dot(0), dot(1), dot(2), dot(3)), wide[i]);
      }
      if constexpr (Unpacker::kMins) {
        int16x8_t sums[kEights];
        group_sums<kGroup>(x.int8.sums16 + at / 16, sums);
        for (int i = 0; i < kEights; ++i) {
          min_sum = vmlal_s16(min_sum, vget_low_s16(min[i]), vget_low_s16(sums[i]));
          min_sum = vmlal_high_s16(min_sum, min[i], sums[i]);
        }
      }
      const int32x2_t sums = vget_low_s32(sum_each(sum, min_sum, sum, min_sum));
      const float32x2_t factor = vmul_n_f32(floats, x.int8.scale[at / 256]);
      acc[t] = vfma_f32(acc[t], vcvt_f32_s32(sums), factor);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const float values = vget_lane_f32(acc[t], 0), mins = vget_lane_f32(acc[t], 1);
    out[t * out_stride] = Unpacker::kMins ? values - mins : values;
  }
}

// The fp16 numbers of blocks i, 4 + i, 8 + i, 12 + i, which lie `bytes` apart.
inline float32x4_t four_halves(const Half* first, std::size_t bytes) {
  const auto* p = reinterpret_cast<const char*>(first);
  std::uint64_t bits = 0;
  for (unsigned chain = 0; chain < 4; ++chain) {
    std::uint16_t word;
    __builtin_memcpy(&word, p + chain * bytes, 2);
    bits |= static_cast<std::uint64_t>(word) << 16 * chain;
  }
  return vcvt_f32_f16(vcreate_f16(bits));
}

// The scales of those blocks.
template <class Block>
inline float32x4_t four_scales(const Block* first) {
  if constexpr (__is_same(Block, BlockMXFP4)) {
    const std::uint32_t exponents[4] = {first[0].e, first[4].e, first[8].e, first[12].e};
    return powers_of_two(vld1q_u32(exponents));
  } else {
    return four_halves(&first->d, 4 * sizeof(Block));
  }
}

template <int kTokens>
struct Chains {
  float32x4_t values[kTokens], mins[kTokens];
};

// 16 blocks (512 values) of a weight row against kTokens rows of x at value `at`: block 4 * chain + i is the i-th that
// its chain takes, so the four chains go side by side.
template <class Unpacker, int kTokens>
inline void dot_16_blocks(const typename Unpacker::Block* blocks, const Activations& x, int first_token, int at,
                          Chains<kTokens>& chains) {
  const std::int64_t first_place = static_cast<std::int64_t>(first_token) * x.stride + at;
  float32x4x4_t scale[kTokens], scaled_sum[kTokens];  // number i of each chain in vector i
  for (int t = 0; t < kTokens; ++t) {
    const std::int64_t place = (first_place + t * x.stride) / 32;
    scale[t] = vld4q_f32(x.int8.scale + place);
    if constexpr (Unpacker::kMins) scaled_sum[t] = vld4q_f32(x.int8.scaled_sum + place);
  }
  for (int i = 0; i < 4; ++i) {
    Values32 q[4];
    for (int chain = 0; chain < 4; ++chain) Unpacker::values(blocks[4 * chain + i], q[chain]);
    const float32x4_t d = four_scales(blocks + i);
    float32x4_t m = vdupq_n_f32(0.0f);
    if constexpr (Unpacker::kMins) m = four_halves(&blocks[i].m, 4 * sizeof(*blocks));
    for (int t = 0; t < kTokens; ++t) {
      const std::int8_t* a = x.int8.q + first_place + t * x.stride + 32 * i;
      const auto dot = [&](int chain) { return dot_group<32>(q[chain], a + 128 * chain); };
      const int32x4_t sums = sum_each(dot(0), dot(1), dot(2), dot(3));
      chains.values[t] = vfmaq_f32(chains.values[t], vcvtq_f32_s32(sums), vmulq_f32(d, scale[t].val[i]));
      if constexpr (Unpacker::kMins) chains.mins[t] = vfmaq_f32(chains.mins[t], m, scaled_sum[t].val[i]);
    }
  }
}

inline float chain_sum(float32x4_t v) {
  return vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));  // (0 + 2) + (1 + 3)
}

template <class Unpacker, int kTokens>
inline void dot_row_32(const std::uint8_t* row, const Activations& x, int first_token, int blocks, float* out,
                       std::int64_t out_stride) {
  using Block = typename Unpacker::Block;
  const auto* weights = reinterpret_cast<const Block*>(row);
  Chains<kTokens> chains;
  for (int t = 0; t < kTokens; ++t) chains.values[t] = chains.mins[t] = vdupq_n_f32(0.0f);
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

}  // namespace pronk::PRONK_ISA
