// Products with F32, F16 and BF16 weights, written once over Vec16. A value is 16 sums along k and one tree
// (matmul.hpp), whatever the tile it is computed in.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

// 16 (or n, zeros past them) values of a row. Rows begin at any address. Vector loads do not mind; plain C++
// (kCopyRows) has to copy first.
struct WeightF32 {
  using Word = float;
  static Vec16 get(const Word* p) { return load(p); }
  static Vec16 get_partial(const Word* p, int n) { return load_partial(p, n); }
};

struct WeightF16 {
  using Word = std::uint16_t;
  static Vec16 get(const Word* p) { return load_f16(p); }
  static Vec16 get_partial(const Word* p, int n) { return load_f16_partial(p, n); }
};

struct WeightBF16 {
  using Word = std::uint16_t;
  static Vec16 get(const Word* p) { return load_bf16(p); }
  static Vec16 get_partial(const Word* p, int n) { return load_bf16_partial(p, n); }
};

template <class Weight>
inline Vec16 get_weights(const std::uint8_t* p) {
  using Word = typename Weight::Word;
  if constexpr (kCopyRows) {
    Word copy[16];
    __builtin_memcpy(copy, p, sizeof(copy));
    return Weight::get(copy);
  }
  return Weight::get(reinterpret_cast<const Word*>(p));
}

template <class Weight>
inline Vec16 get_weights(const std::uint8_t* p, int n) {
  using Word = typename Weight::Word;
  if constexpr (kCopyRows) {
    Word copy[16];
    __builtin_memcpy(copy, p, sizeof(Word) * static_cast<unsigned>(n));
    return Weight::get_partial(copy, n);
  }
  return Weight::get_partial(reinterpret_cast<const Word*>(p), n);
}

// How far ahead of the arithmetic weights are fetched: DRAM's latency times its bandwidth, with some to spare.
constexpr int kPrefetchBytes = 4096;

// kTokens rows of x against one weight row as the file has it: memory sets the speed.
template <class Weight, int kTokens>
inline void float_dot(const std::uint8_t* w, const float* x, std::int64_t x_stride, int cols, float* out,
                      std::int64_t out_stride) {
  constexpr std::int64_t kBytes = sizeof(typename Weight::Word);
  Vec16 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = zero();
  int k = 0;
  for (; k + 16 <= cols; k += 16) {
    const std::uint8_t* p = w + k * kBytes;
    __builtin_prefetch(p + kPrefetchBytes);
    const Vec16 weight = get_weights<Weight>(p);
    for (int t = 0; t < kTokens; ++t) acc[t] = fma(weight, load(x + t * x_stride + k), acc[t]);
  }
  if (k < cols) {
    const Vec16 weight = get_weights<Weight>(w + k * kBytes, cols - k);
    for (int t = 0; t < kTokens; ++t) acc[t] = fma(weight, load_partial(x + t * x_stride + k, cols - k), acc[t]);
  }
  for (int t = 0; t < kTokens; ++t) out[t * out_stride] = reduce_add(acc[t]);
}

template <class Weight>
inline void float_few_rows(const MatmulTask& task) {
  const Activations& x = *task.x;
  for (int r = 0; r < task.rows; ++r) {
    const std::uint8_t* w = task.weights + r * task.row_bytes;
    for (int t = 0; t < x.rows; t += 4) {
      const float* rows = x.x + static_cast<std::int64_t>(t) * x.cols;
      float* out = task.out + t * task.out_stride + r;
      switch (x.rows - t) {
        case 1:
          float_dot<Weight, 1>(w, rows, x.cols, task.cols, out, task.out_stride);
          break;
        case 2:
          float_dot<Weight, 2>(w, rows, x.cols, task.cols, out, task.out_stride);
          break;
        case 3:
          float_dot<Weight, 3>(w, rows, x.cols, task.cols, out, task.out_stride);
          break;
        default:
          float_dot<Weight, 4>(w, rows, x.cols, task.cols, out, task.out_stride);
      }
    }
  }
}

// Many rows of x: strips of kStrip weight rows are widened to float once, and cut along k so that a strip's piece stays
// in the L1 cache while all rows of x pass by. Between pieces the 16 sums of each value wait in memory.
constexpr int kPiece = 512;  // of k

template <int kTokens, int kWeights>
inline void float_tile(const float* w, int w_stride, const float* x, std::int64_t x_stride, int count, float* sums,
                       int sums_stride) {
  Vec16 acc[kTokens][kWeights];
  for (int t = 0; t < kTokens; ++t) {
    for (int n = 0; n < kWeights; ++n) acc[t][n] = load(sums + t * sums_stride + 16 * n);
  }
  const auto step = [&](auto get, int k) {
    Vec16 weight[kWeights];
    for (int n = 0; n < kWeights; ++n) weight[n] = load(w + n * w_stride + k);
    for (int t = 0; t < kTokens; ++t) {
      const Vec16 value = get(x + t * x_stride + k);
      for (int n = 0; n < kWeights; ++n) acc[t][n] = fma(weight[n], value, acc[t][n]);
    }
  };
  int k = 0;
  for (; k + 16 <= count; k += 16) step([](const float* p) { return load(p); }, k);
  if (k < count) step([n = count - k](const float* p) { return load_partial(p, n); }, k);
  for (int t = 0; t < kTokens; ++t) {
    for (int n = 0; n < kWeights; ++n) store(sums + t * sums_stride + 16 * n, acc[t][n]);
  }
}

// (tokens, 16 * kWeights) sums += a piece of k of x times the strip.
template <int kWeights>
inline void float_piece(const float* w, int w_stride, const float* x, int tokens, std::int64_t x_stride, int count,
                        float* sums) {
  constexpr int kSums = 16 * kWeights;
  int t = 0;
  for (; t + kFloatTileTokens <= tokens; t += kFloatTileTokens) {
    float_tile<kFloatTileTokens, kWeights>(w, w_stride, x + t * x_stride, x_stride, count, sums + t * kSums, kSums);
  }
  for (; t < tokens; ++t)
    float_tile<1, kWeights>(w, w_stride, x + t * x_stride, x_stride, count, sums + t * kSums, kSums);
}

template <class Weight, int kWeights>
inline void float_strip(const MatmulTask& task, int first) {
  constexpr std::int64_t kBytes = sizeof(typename Weight::Word);
  const Activations& x = *task.x;
  const int cols = task.cols, padded = (cols + 15) / 16 * 16;
  auto* w = reinterpret_cast<float*>(task.scratch);
  float* sums = w + kWeights * static_cast<std::int64_t>(padded);
  for (int n = 0; n < kWeights; ++n) {
    const std::uint8_t* row = task.weights + (first + n) * task.row_bytes;
    int k = 0;
    for (; k + 16 <= cols; k += 16) store(w + n * padded + k, get_weights<Weight>(row + k * kBytes));
    if (k < cols) store(w + n * padded + k, get_weights<Weight>(row + k * kBytes, cols - k));
  }
  __builtin_memset(sums, 0, sizeof(float) * 16 * kWeights * static_cast<std::size_t>(x.rows));
  for (int k = 0; k < cols; k += kPiece) {
    const int count = cols - k < kPiece ? cols - k : kPiece;
    float_piece<kWeights>(w + k, padded, x.x + k, x.rows, x.cols, count, sums);
  }
  for (int t = 0; t < x.rows; ++t) {
    for (int n = 0; n < kWeights; ++n) {
      task.out[t * task.out_stride + first + n] = reduce_add(load(sums + 16 * (t * kWeights + n)));
    }
  }
}

template <class Weight>
inline void float_many_rows(const MatmulTask& task) {
  int n = 0;
  for (; n + kFloatTileWeights <= task.rows; n += kFloatTileWeights) float_strip<Weight, kFloatTileWeights>(task, n);
  for (; n < task.rows; ++n) float_strip<Weight, 1>(task, n);
}

inline constexpr void set_float_kernels(MatmulKernels& kernels) {
  kernels.few_rows[static_cast<int>(Type::kF32)] = float_few_rows<WeightF32>;
  kernels.few_rows[static_cast<int>(Type::kF16)] = float_few_rows<WeightF16>;
  kernels.few_rows[static_cast<int>(Type::kBF16)] = float_few_rows<WeightBF16>;
  kernels.many_rows[static_cast<int>(Type::kF32)] = float_many_rows<WeightF32>;
  kernels.many_rows[static_cast<int>(Type::kF16)] = float_many_rows<WeightF16>;
  kernels.many_rows[static_cast<int>(Type::kBF16)] = float_many_rows<WeightBF16>;
}

}  // namespace pronk::PRONK_ISA
