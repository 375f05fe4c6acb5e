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
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) acc[t] = zero();
  int k = 0;
  for (; k + 16 <= cols; k += 16) {
    const std::uint8_t* p = w + k * kBytes;
    __builtin_prefetch(p + kPrefetchBytes);
    const Vec16 weight = get_weights<Weight>(p);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) acc[t] = fma(weight, load(x + t * x_stride + k), acc[t]);
  }
  if (k < cols) {
    const Vec16 weight = get_weights<Weight>(w + k * kBytes, cols - k);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) acc[t] = fma(weight, load_partial(x + t * x_stride + k, cols - k), acc[t]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) out[t * out_stride] = reduce_add(acc[t]);
}

constexpr int kFewTokens = 6;  // rows of x that one reading of a weight row serves: more would not fit the L1 cache

// float_dot with kTokens = tokens, which is at most kTokens.
template <class Weight, int kTokens>
inline void float_dot_of(int tokens, const std::uint8_t* w, const float* x, std::int64_t x_stride, int cols, float* out,
                         std::int64_t out_stride) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return float_dot_of<Weight, kTokens - 1>(tokens, w, x, x_stride, cols, out, out_stride);
  }
  float_dot<Weight, kTokens>(w, x, x_stride, cols, out, out_stride);
}

template <class Weight>
inline void float_few_rows(const MatmulTask& task) {
  const Activations& x = *task.x;
  for (int r = 0; r < task.rows; ++r) {
    const std::uint8_t* w = task.weights + r * task.row_bytes;
    for (int t = 0; t < x.rows; t += kFewTokens) {
      const int tokens = x.rows - t < kFewTokens ? x.rows - t : kFewTokens;
      const float* rows = x.x + static_cast<std::int64_t>(t) * x.cols;
      float* out = task.out + t * task.out_stride + r;
      float_dot_of<Weight, kFewTokens>(tokens, w, rows, x.cols, task.cols, out, task.out_stride);
    }
  }
}

// Many rows of x: blocked so that each level of cache serves the one above it.
//   a panel (weight rows, kPiece of k), widened to float        L2
//   kBlockTokens rows of x, and the 16 sums of each value       L2
//   a strip of kFloatTileWeights rows of the panel              L1, while the block's rows of x pass by
//   a tile of kFloatTileTokens x kFloatTileWeights sums         registers
constexpr int kPiece = 512;
constexpr int kBlockTokens = 64;

// Where the 16 sums of a tile's values come from and go to: zero before the first piece of k, memory between pieces,
// and from the last one the values themselves, (kTokens, kWeights), rows out_stride apart.
struct PieceOfK {
  int count;
  bool first, last;
  float* out;
  std::int64_t out_stride;
};

template <int kTokens, int kWeights>
inline void float_tile(const float* w, const float* x, std::int64_t x_stride, const PieceOfK& piece, float* sums) {
  const int count = piece.count;
  Vec16 acc[kTokens][kWeights];
  // Unrolled, or the compiler would keep the accumulators in memory.
  if (piece.first) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 6
      for (int n = 0; n < kWeights; ++n) acc[t][n] = zero();
    }
  } else {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 6
      for (int n = 0; n < kWeights; ++n) acc[t][n] = load(sums + 16 * (t * kWeights + n));
    }
  }
  int k = 0;
  for (; k + 16 <= count; k += 16) {
    Vec16 weight[kWeights];
#pragma GCC unroll 6
    for (int n = 0; n < kWeights; ++n) weight[n] = load(w + n * kPiece + k);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const Vec16 value = load(x + t * x_stride + k);
#pragma GCC unroll 6
      for (int n = 0; n < kWeights; ++n) acc[t][n] = fma(weight[n], value, acc[t][n]);
    }
  }
  if (k < count) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const Vec16 value = load_partial(x + t * x_stride + k, count - k);
#pragma GCC unroll 6
      for (int n = 0; n < kWeights; ++n) acc[t][n] = fma(load(w + n * kPiece + k), value, acc[t][n]);
    }
  }
  if (piece.last) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 6
      for (int n = 0; n < kWeights; ++n) piece.out[t * piece.out_stride + n] = reduce_add(acc[t][n]);
    }
    return;
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 6
    for (int n = 0; n < kWeights; ++n) store(sums + 16 * (t * kWeights + n), acc[t][n]);
  }
}

// float_tile with kTokens = tokens, which is at most kTokens.
template <int kTokens, int kWeights>
inline void float_tile_of(int tokens, const float* w, const float* x, std::int64_t x_stride, const PieceOfK& piece,
                          float* sums) {
  if constexpr (kTokens > 1) {
    if (tokens < kTokens) return float_tile_of<kTokens - 1, kWeights>(tokens, w, x, x_stride, piece, sums);
  }
  float_tile<kTokens, kWeights>(w, x, x_stride, piece, sums);
}

// kWeights rows of the panel against a block of rows of x; sums: (tokens, kWeights, 16).
template <int kWeights>
inline void float_strip(const float* w, const float* x, int tokens, std::int64_t x_stride, PieceOfK piece,
                        float* sums) {
  for (int t = 0; t < tokens; t += kFloatTileTokens, piece.out += kFloatTileTokens * piece.out_stride) {
    const int n = tokens - t < kFloatTileTokens ? tokens - t : kFloatTileTokens;
    float_tile_of<kFloatTileTokens, kWeights>(n, w, x + t * x_stride, x_stride, piece, sums + t * 16 * kWeights);
  }
}

// Values [first_k, first_k + count) of the task's rows as float, (rows, kPiece).
template <class Weight>
inline void widen_piece(const MatmulTask& task, int first_k, int count, float* out) {
  constexpr std::int64_t kBytes = sizeof(typename Weight::Word);
  for (int n = 0; n < task.rows; ++n) {
    const std::uint8_t* row = task.weights + n * task.row_bytes + first_k * kBytes;
    int k = 0;
    for (; k + 16 <= count; k += 16) {
      __builtin_prefetch(row +
                         (k + kPiece) * kBytes);  // the next piece: so many rows are too many streams for hardware
      store(out + n * kPiece + k, get_weights<Weight>(row + k * kBytes));
    }
    if (k < count) store(out + n * kPiece + k, get_weights<Weight>(row + k * kBytes, count - k));
  }
}

template <class Weight>
inline void float_many_rows(const MatmulTask& task) {
  const Activations& x = *task.x;
  auto* panel = reinterpret_cast<float*>(task.scratch);
  float* sums = panel + kFloatPanelRows * kPiece;  // (weight rows, tokens, 16), the rows of a strip together
  static_assert(sizeof(float) * kFloatPanelRows * (kPiece + 16 * kBlockTokens) <= kPieceBytes);
  for (int first = 0; first < x.rows; first += kBlockTokens) {
    const int tokens = x.rows - first < kBlockTokens ? x.rows - first : kBlockTokens;
    for (int k = 0; k < task.cols; k += kPiece) {
      const int count = task.cols - k < kPiece ? task.cols - k : kPiece;
      const float* rows = x.x + static_cast<std::int64_t>(first) * x.cols + k;
      widen_piece<Weight>(task, k, count, panel);
      PieceOfK piece{count, k == 0, k + count == task.cols, task.out + first * task.out_stride, task.out_stride};
      int n = 0;
      for (; n + kFloatTileWeights <= task.rows; n += kFloatTileWeights, piece.out += kFloatTileWeights) {
        float_strip<kFloatTileWeights>(panel + n * kPiece, rows, tokens, x.cols, piece, sums + 16 * n * tokens);
      }
      for (; n < task.rows; ++n, ++piece.out) {
        float_strip<1>(panel + n * kPiece, rows, tokens, x.cols, piece, sums + 16 * n * tokens);
      }
    }
  }
}

inline constexpr void set_float_kernels(MatmulKernels& kernels, int many_rows_from) {
  for (const Type type : {Type::kF32, Type::kF16, Type::kBF16}) {
    kernels.many_rows_from[static_cast<int>(type)] = many_rows_from;
  }
  kernels.few_rows[static_cast<int>(Type::kF32)] = float_few_rows<WeightF32>;
  kernels.few_rows[static_cast<int>(Type::kF16)] = float_few_rows<WeightF16>;
  kernels.few_rows[static_cast<int>(Type::kBF16)] = float_few_rows<WeightBF16>;
  kernels.many_rows[static_cast<int>(Type::kF32)] = float_many_rows<WeightF32>;
  kernels.many_rows[static_cast<int>(Type::kF16)] = float_many_rows<WeightF16>;
  kernels.many_rows[static_cast<int>(Type::kBF16)] = float_many_rows<WeightBF16>;
}

}  // namespace pronk::PRONK_ISA
