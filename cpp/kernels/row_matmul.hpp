// Products with quantized weights, one weight row at a time: for instruction sets without a tile of their own. A block
// is unpacked to int8 once and multiplied with every row of x while it is in the L1 cache.
//
// What an instruction set brings: unpackers (a block of the file -> Block256 or Block32) and two dot products.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

// A K-quant's block in its plainest form: w = d * scale * q - dmin * min, a scale and a min for each 16 values.
struct alignas(64) Block256 {
  std::int8_t q[256];
  std::int16_t scale[16];
  std::int16_t min[16];
  float d, dmin;
};

// A 32-value block: w = d * q + m.
struct alignas(32) Block32 {
  std::int8_t q[32];
  float d, m;
};

struct BlockSums {
  std::int32_t values;  // sum over groups of scale * (sum of q * a)
  std::int32_t mins;    // sum over groups of min * (sum of a)
};

// Unpacker: struct { static constexpr bool kMins; static constexpr int kBytes;
//                    static void unpack(const std::uint8_t* block, Block256& out); }   // min, dmin only where kMins
// and the instruction set's
//   template <class Unpacker> BlockSums dot_256(const Block256& w, const std::int8_t* a, const std::int16_t* sums16);
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

// Unpacker: as above, with Block32 (m only where kMins), and
//   template <class Unpacker> std::int32_t dot_32(const Block32& w, const std::int8_t* a);
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

// The one kernel of a type, for few rows and for many.
inline constexpr void set_row_kernel(MatmulKernels& kernels, Type type, MatmulKernel kernel) {
  kernels.few_rows[static_cast<int>(type)] = kernels.many_rows[static_cast<int>(type)] = kernel;
}

template <class Q4_0, class Q4_1, class Q5_0, class Q5_1, class Q8_0, class Q4_K, class Q5_K, class Q6_K>
inline constexpr void set_row_kernels(MatmulKernels& kernels) {
  set_row_kernel(kernels, Type::kQ4_0, matmul_32<Q4_0>);
  set_row_kernel(kernels, Type::kQ4_1, matmul_32<Q4_1>);
  set_row_kernel(kernels, Type::kQ5_0, matmul_32<Q5_0>);
  set_row_kernel(kernels, Type::kQ5_1, matmul_32<Q5_1>);
  set_row_kernel(kernels, Type::kQ8_0, matmul_32<Q8_0>);
  set_row_kernel(kernels, Type::kQ4_K, matmul_256<Q4_K>);
  set_row_kernel(kernels, Type::kQ5_K, matmul_256<Q5_K>);
  set_row_kernel(kernels, Type::kQ6_K, matmul_256<Q6_K>);
}

}  // namespace pronk::PRONK_ISA
