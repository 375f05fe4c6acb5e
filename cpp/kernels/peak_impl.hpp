// The kernels of peaks.hpp, for whichever instruction set includes this file after its Vec16. The products of int8 are
// plain loops here; an instruction set that multiplies bytes has its own.
#pragma once

#include "pronk/peaks.hpp"

namespace pronk::PRONK_ISA {

// In order and 4 KB ahead, as the one-row products read weights.
inline std::uint64_t read_sum(const std::uint8_t* data, std::int64_t bytes) {
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i < bytes; i += kPeakLine) {
    __builtin_prefetch(data + i + 4096);
    for (int j = 0; j < 8; ++j) {
      std::uint64_t word;
      __builtin_memcpy(&word, data + i + 8 * j, 8);
      sums[j] += word;
    }
  }
  std::uint64_t sum = 0;
  for (int j = 0; j < 8; ++j) sum += sums[j];
  return sum;
}

inline std::uint32_t plain_int8_sum(const Int8Products& products) {
  std::uint32_t total = 0;
  for (std::int64_t pass = 0; pass < products.passes; ++pass) {
    __asm__ volatile("" : : : "memory");  // a compiler that sees equal passes would multiply one's sum
    for (std::int64_t i = 0; i < products.count; ++i) {
      const std::int8_t* right = products.right + i * kPeakWidth;
      for (int row = 0; row < kPeakRows; ++row) {
        const std::int8_t* left = products.left + row * kPeakWidth;
        std::int32_t sum = 0;
        for (int k = 0; k < kPeakWidth; ++k) sum += left[k] * right[k];
        total += static_cast<std::uint32_t>(sum);
      }
    }
  }
  return total;
}

// Where a fused operation is no instruction it is a call of the C library, and what that reaches is no peak.
inline Vec16 multiply_add(const Vec16& a, const Vec16& b, const Vec16& c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fma(a, b, c);
#else
  return add(mul(a, b), c);
#endif
}

// kRows: sums that fit the registers beside their factors, and enough to hide an addition's latency.
template <int kRows>
inline float float_sum(const FloatProducts& products) {
  static_assert(kPeakRows % kRows == 0);
  Vec16 total = zero();
  for (int first = 0; first < kPeakRows; first += kRows) {
    Vec16 left[kRows], sums[kRows];
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
      left[row] = broadcast(products.left[first + row]);
      sums[row] = zero();
    }
    for (std::int64_t pass = 0; pass < products.passes; ++pass) {
      for (std::int64_t i = 0; i < products.count; ++i) {
        const Vec16 right = load(products.right + 16 * i);
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row) sums[row] = multiply_add(left[row], right, sums[row]);
      }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) total = add(total, sums[row]);
  }
  return reduce_add(total);
}

template <int kRows>
constexpr PeakKernels peak_kernels(std::uint32_t (*int8_sum)(const Int8Products&) = plain_int8_sum) {
  return {read_sum, int8_sum, float_sum<kRows>};
}

}  // namespace pronk::PRONK_ISA
