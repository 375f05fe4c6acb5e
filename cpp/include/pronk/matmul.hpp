// Matrix products with weights in the file's own bytes, and embedding rows.
//
// y[t][n] = sum over k of x[t][k] * w[n][k]. What a value is, to the bit, on every instruction set:
//
// - Float weights (F32, F16, BF16): 16 sums, sum l over k = l modulo 16 in order, each step one fma; then the tree of
//   reduce_add (vec16_portable.hpp).
// - K-quants (blocks of 256 values): x is quantized to int8 (quantize_impl.hpp), with one scale `as` a block. A weight
//   is d * scale * q - dmin * min, so a block gives two whole numbers, both exact:
//       isum = sum over groups of scale * (sum of q * a),  msum = sum over groups of min * (sum of a)
//   and blocks are added in order:  p = fma(float(isum), d * as, p),  n = fma(float(msum), dmin * as, n),  y = p - n.
// - 32-value types, w = d * q + m: likewise, but in four chains; chain c takes the blocks b with (b / 4) % 4 == c:
//       p[c] = fma(float(sum of q * a), d * as, p[c]),  n[c] = fma(m, as * (sum of a), n[c])
//       y = tree(p) + tree(n), with tree(v) = (v[0] + v[2]) + (v[1] + v[3])
//   (one chain would make its own latency the speed of a one-row product: these blocks are short).
// Types without mins have no n.
//
// So a value never depends on the other rows of x, the number of threads, or the kernel that ran.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pronk/quants.hpp"

namespace pronk {

struct MatrixView {
  const std::uint8_t* data;
  int type;
  std::int64_t rows, cols;
  std::int64_t row_bytes;
};

// The int8 form of one row, or of all rows when `stride` values lie between them.
//
// Instructions that multiply unsigned bytes by signed ones take either side plus 128, and start their sums at -128
// times the sum of the other side: `biased` is for kernels that know the sums of the weights, `start` for those that do
// not.
template <class I8, class U8, class I16, class I32, class F>
struct QuantizedForm {
  I8* q = nullptr;
  U8* biased = nullptr;  // q + 128
  F* scale = nullptr;    // one a block: x is about scale * q
  // Blocks of 256 only:
  I16* sums16 = nullptr;  // sums of q over 16 values
  I16* sums32 = nullptr;  // over 32
  // Blocks of 32 only:
  I32* start = nullptr;     // -128 * (sum of q over the block)
  F* scaled_sum = nullptr;  // scale * (sum of q over the block)
};
using QuantizedRow = QuantizedForm<std::int8_t, std::uint8_t, std::int16_t, std::int32_t, float>;

// The rows of x in the form that a kernel reads: float for float weights, int8 for quantized ones.
//
// Entry i of row t lies at q[t * stride + i]; of the smaller arrays at [t * stride / n + i / n]. `stride` is cols
// rounded up to 512, and for blocks of 32 the padding is zero: a kernel
// may read and multiply whole vectors past the end.
struct Activations {
  int rows = 0, cols = 0, stride = 0;
  const float* x = nullptr;  // (rows, cols), always there
  QuantizedForm<const std::int8_t, const std::uint8_t, const std::int16_t, const std::int32_t, const float> int8;
};

// A few consecutive rows of one weight matrix against all rows of x.
struct MatmulTask {
  const std::uint8_t* weights;  // the first of the rows
  std::int64_t row_bytes;
  int rows, cols;
  const Activations* x;
  float* out;  // out[t * out_stride + r] for row r of these
  std::int64_t out_stride;
  std::uint8_t* scratch;  // 64-byte aligned, scratch_bytes() long, the calling thread's own
};

using MatmulKernel = void (*)(const MatmulTask& task);

// Weight rows in a task of a many-rows kernel, at most: a panel.
constexpr int kPanelRows = 32;
constexpr int kFloatPanelRows = 48;

constexpr std::size_t kPieceBytes = 320 << 10;  // for unpacked weights, and what else does not grow with x

// Room that any kernel needs for a task over `rows` rows of x: unpacked weights, and the sums that wait between pieces
// of k. The most of these are 32 weight rows in four chains, for values and for mins.
constexpr std::size_t scratch_bytes(std::size_t rows) {
  return kPieceBytes + rows * (kPanelRows * 4 * 2 * sizeof(float));
}

struct MatmulKernels {
  // One row of x, in blocks of 256 or of 32 values.
  void (*quantize)(const float* x, int cols, int stride, int block, const QuantizedRow& out);
  // By type. Where an instruction set has no kernel, the portable one runs.
  int many_rows_from[kTypeLimit];  // rows of x from which the many-rows kernel is the faster one
  MatmulKernel few_rows[kTypeLimit];
  MatmulKernel many_rows[kTypeLimit];  // tasks of at most a panel
};

// y[i] (rows, weights[i].rows) = x (rows, cols) times the transpose of weights[i], for all weights in one pool job.
void linear(const float* x, int rows, int cols, const MatrixView* weights, int count, float* const* y);

// out[i] = row ids[i] of the table, as float. The caller has checked the ids.
void embed(const MatrixView& table, const std::int32_t* ids, int count, float* out);

// out[0..count) = the decoded values of whole blocks, in parallel.
void decode(const std::uint8_t* data, int type, std::int64_t count, float* out);

}  // namespace pronk
