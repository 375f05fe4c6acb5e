// Products with quantized weights, one weight row at a time: for instruction sets without a tile of their own. A block
// is unpacked to int8 once and multiplied with every row of x while it is in the L1 cache.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

struct BlockSums {
  std::int32_t values;  // sum over groups of scale * (sum of q * a)
  std::int32_t mins;    // sum over groups of min * (sum of a)
};

// What an instruction set brings: two dot products,
template <class Unpacker>
BlockSums dot_256(const Block256& w, const std::int8_t* a, const std::int16_t* sums16);
template <class Unpacker>
std::int32_t dot_32(const Block32& w, const std::int8_t* a);
// and unpackers:
//   struct { static constexpr bool kMins; static constexpr int kBytes;
//            static void unpack(const std::uint8_t* block, Block256& out); }  // min, dmin (of Block32: m) only where
//            kMins
template <class Unpacker>
inline void matmul_256(const MatmulTask& task) {
  const Activations& x = *task.x;
  auto* positive = reinterpret_cast<float*>(task.scratch);
  float* negative = positive + x.rows;
  for (int r = 0; r < task.rows; ++r) {
    for (int t = 0; t < x.rows; ++t) positive[t] = negative[t] = 0.0f;
    const std::uint8_t* row = task.weights + r * task.row_bytes;
    for (int b = 0; b < task.cols / 256; ++b) {
      __builtin_prefetch(row + b * Unpacker::kBytes + kPrefetchBytes);
      Block256 block;
      Unpacker::unpack(row + b * Unpacker::kBytes, block);
      for (int t = 0; t < x.rows; ++t) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 256 * b;
        const BlockSums sums = dot_256<Unpacker>(block, x.int8.q + at, x.int8.sums16 + at / 16);
        const float scale = x.int8.scale[at / 256];
        positive[t] = __builtin_fmaf(static_cast<float>(sums.values), block.d * scale, positive[t]);
        if constexpr (Unpacker::kMins) {
          negative[t] = __builtin_fmaf(static_cast<float>(sums.mins), block.dmin * scale, negative[t]);
        }
      }
    }
    for (int t = 0; t < x.rows; ++t) {
      task.out[t * task.out_stride + r] = Unpacker::kMins ? positive[t] - negative[t] : positive[t];
    }
  }
}

inline float chain_sum(const float* v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
}

template <class Unpacker>
inline void matmul_32(const MatmulTask& task) {
  const Activations& x = *task.x;
  auto* chains = reinterpret_cast<float*>(task.scratch);  // (x.rows, 8): four chains of values, four of mins
  for (int r = 0; r < task.rows; ++r) {
    __builtin_memset(chains, 0, sizeof(float) * 8 * static_cast<std::size_t>(x.rows));
    const std::uint8_t* row = task.weights + r * task.row_bytes;
    for (int b = 0; b < task.cols / 32; ++b) {
      __builtin_prefetch(row + b * Unpacker::kBytes + kPrefetchBytes);
      Block32 block;
      Unpacker::unpack(row + b * Unpacker::kBytes, block);
      for (int t = 0; t < x.rows; ++t) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 32 * b;
        float* chain = chains + 8 * t + b / 4 % 4;
        const auto sum = static_cast<float>(dot_32<Unpacker>(block, x.int8.q + at));
        chain[0] = __builtin_fmaf(sum, block.d * x.int8.scale[at / 32], chain[0]);
        if constexpr (Unpacker::kMins) chain[4] = __builtin_fmaf(block.m, x.int8.scaled_sum[at / 32], chain[4]);
      }
    }
    for (int t = 0; t < x.rows; ++t) {
      const float* chain = chains + 8 * t;
      const float sum = chain_sum(chain);
      task.out[t * task.out_stride + r] = Unpacker::kMins ? sum + chain_sum(chain + 4) : sum;
    }
  }
}

// The one kernel of a type, for few rows and for many; as panels it would only be cut finer.
inline constexpr void set_row_kernel(MatmulKernels& kernels, Type type, MatmulKernel kernel) {
  kernels.few_rows[static_cast<int>(type)] = kernels.many_rows[static_cast<int>(type)] = kernel;
  kernels.many_rows_from[static_cast<int>(type)] = 8;
}

}  // namespace pronk::PRONK_ISA
