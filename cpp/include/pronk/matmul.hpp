// Matrix products with weights in the file's own bytes, and embedding rows.
//
// y[t][n] = sum over k of x[t][k] * w[n][k]. Float weights (F32, F16, BF16) multiply float activations. Quantized
// weights multiply activations quantized to int8 (quantize.hpp), in exact integers within a block; blocks are added in
// float in a fixed order. So a value never depends on the other rows of x, the number of threads, or the kernel that
// ran.
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

// The rows of x in the form that a kernel reads: float for float weights, int8 for quantized ones.
//
// Row t of the int8 form starts at q + t * stride, scale + t * stride / block and so on. `stride` is cols rounded up to
// 512, and the padding is zero, so a kernel may read whole vectors past the end of a row.
struct Activations {
  int rows = 0, cols = 0, stride = 0;
  int block = 0;                       // values to a scale: 256 for K-quants, 32 for the 32-value types, 0 for float
  const float* x = nullptr;            // (rows, cols), always there
  const std::int8_t* q = nullptr;      // (rows, stride)
  const float* scale = nullptr;        // (rows, stride / block): x is about scale * q
  const std::int16_t* sums = nullptr;  // (rows, stride / 16): sums of q over 16 values
  const float* scaled_sum = nullptr;   // (rows, stride / 32), for block 32 only: scale * (sum of q over the block)
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

constexpr int kPanelRows = 32;  // weight rows in a task of a many-rows kernel, at most

// Room that any kernel needs for a task.
constexpr std::size_t scratch_bytes(std::size_t rows, std::size_t cols) {
  return (cols + 512) * kPanelRows * sizeof(float) + (rows + 8) * kPanelRows * 4 * sizeof(float);
}

struct MatmulKernels {
  // One row of `cols` values (block 256 or 32); writes the padding too. See quantize.hpp for the arithmetic.
  void (*quantize)(const float* x, int cols, int stride, int block, std::int8_t* q, float* scale, std::int16_t* sums,
                   float* scaled_sum);
  int many_rows_from;                  // rows of x from which the many-rows kernels are the faster ones
  MatmulKernel few_rows[kTypeLimit];   // by type
  MatmulKernel many_rows[kTypeLimit];  // by type; tasks of at most kPanelRows rows
};

// y[i] (rows, weights[i].rows) = x (rows, cols) times the transpose of weights[i], for all weights in one pool job.
void linear(const float* x, int rows, int cols, const MatrixView* weights, int count, float* const* y);

// out[i] = row ids[i] of the table, as float. The caller has checked the ids.
void embed(const MatrixView& table, const std::int32_t* ids, int count, float* out);

// out[0..count) = the decoded values of whole blocks, in parallel.
void decode(const std::uint8_t* data, int type, std::int64_t count, float* out);

}  // namespace pronk
