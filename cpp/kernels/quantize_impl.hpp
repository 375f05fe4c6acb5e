// Activations to int8. Written once: with constant trip counts and no branches inside, compilers turn these loops into
// the vectors of each instruction set, and every operation is exact or one IEEE operation, so all give the same bits.
//
// A block of 256 (or 32) values shares one scale: with a = max |x|, scale = a / 127 and q = round(x * (127 / a)), ties
// to even. Blocks without a number worth scaling (a < 1e-30) are zero; a block with an infinity or a NaN gets a NaN for
// its scale, so that what depends on it is NaN, as it would be in float.
#pragma once

#include "pronk/matmul.hpp"

namespace pronk::PRONK_ISA {

inline std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

template <int kBlock>
inline float quantize_values(const float* x, std::int8_t* q) {
  // Without their sign, the bits of floats are ordered as the floats are, and NaN and infinity are on top.
  std::uint32_t largest = 0;
  for (int i = 0; i < kBlock; ++i) {
    const std::uint32_t magnitude = float_bits(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float a;
  __builtin_memcpy(&a, &largest, 4);
  const bool finite = largest < 0x7f800000u;
  if (!finite || a < 1e-30f) {
    __builtin_memset(q, 0, kBlock);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / a;
  for (int i = 0; i < kBlock; ++i) {
    // Adding 1.5 * 2^23 leaves the rounded value in the lowest bits.
    q[i] = static_cast<std::int8_t>(float_bits(x[i] * inverse + 12582912.0f) - 0x4b400000u);
  }
  return a / 127.0f;
}

template <int kValues>
inline void sum_groups(const std::int8_t* q, int count, std::int16_t* sums) {
  for (int g = 0; g < count; ++g) {
    int sum = 0;
    for (int i = 0; i < kValues; ++i) sum += q[kValues * g + i];
    sums[g] = static_cast<std::int16_t>(sum);
  }
}

template <int kValues>
inline void bias_values(const std::int8_t* q, std::uint8_t* biased) {
  for (int i = 0; i < kValues; ++i) biased[i] = static_cast<std::uint8_t>(q[i] + 128);
}

inline void quantize_256(const float* x, int cols, const QuantizedRow& out) {
  for (int b = 0; b < cols / 256; ++b) {
    const std::int8_t* q = out.q + 256 * b;
    out.scale[b] = quantize_values<256>(x + 256 * b, out.q + 256 * b);
    bias_values<256>(q, out.biased + 256 * b);
    const std::int16_t* sums16 = out.sums16 + 16 * b;
    sum_groups<16>(q, 16, out.sums16 + 16 * b);
    std::int16_t* sums32 = out.sums32 + 8 * b;
    for (int g = 0; g < 8; ++g) sums32[g] = static_cast<std::int16_t>(sums16[2 * g] + sums16[2 * g + 1]);
  }
}

inline void quantize_32(const float* x, int cols, int stride, const QuantizedRow& out) {
  for (int b = 0; b < stride / 32; ++b) {
    if (32 * b >= cols) {  // the padding: zeros, so that a kernel may read and multiply it
      __builtin_memset(out.q + 32 * b, 0, 32);
      __builtin_memset(out.biased + 32 * b, 128, 32);
      out.scale[b] = out.scaled_sum[b] = 0.0f;
      out.start[b] = 0;
      continue;
    }
    out.scale[b] = quantize_values<32>(x + 32 * b, out.q + 32 * b);
    bias_values<32>(out.q + 32 * b, out.biased + 32 * b);
    int sum = 0;
    for (int i = 0; i < 32; ++i) sum += out.q[32 * b + i];
    out.start[b] = -128 * sum;
    out.scaled_sum[b] = out.scale[b] * static_cast<float>(sum);
  }
}

inline void quantize_row(const float* x, int cols, int stride, int block, const QuantizedRow& out) {
  if (block == 256) {
    quantize_256(x, cols, out);
  } else {
    quantize_32(x, cols, stride, out);
  }
}

}  // namespace pronk::PRONK_ISA
