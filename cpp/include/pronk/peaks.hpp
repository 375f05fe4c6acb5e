// How fast this machine reads memory and multiplies at most: what the speed of every other kernel is a share of.
//
// A kernel does one thing over and over and returns the sum of all it did: so a compiler can leave nothing out, and a
// test can check it. The factors of the products stay in the L1 cache, those of the left side in registers.
#pragma once

#include <cstdint>

namespace pronk {

constexpr int kPeakLine = 64;    // bytes; what is read is whole lines of the cache
constexpr int kPeakRows = 12;    // of the left side: a multiple of any register tile's
constexpr int kPeakWidth = 256;  // int8 values of a row
constexpr int kPeakSlice = 8;    // rows of the right side come in multiples of this

// Every row of the left side by every row of the right one, `passes` times.
struct Int8Products {
  const std::int8_t* left;   // (kPeakRows, kPeakWidth)
  const std::int8_t* right;  // (count, kPeakWidth), 0 to 15, as weights of four bits are: 16 products fit int16
  std::int64_t count, passes;
};
struct FloatProducts {
  const float* left;   // (kPeakRows): numbers
  const float* right;  // (count, 16): vectors
  std::int64_t count, passes;
};

// What each instruction set provides, on one thread.
struct PeakKernels {
  std::uint64_t (*read_sum)(const std::uint8_t* data, std::int64_t bytes) = nullptr;  // of 64-bit words, modulo 2^64
  std::uint32_t (*int8_sum)(const Int8Products& products) = nullptr;                  // modulo 2^32
  float (*float_sum)(const FloatProducts& products) = nullptr;
};

// Over the thread pool. The bytes are shared out; of the products each thread does all, and its sum counts.
std::uint64_t read_sum(const std::uint8_t* data, std::int64_t bytes);
std::uint32_t int8_sum(const Int8Products& products);
double float_sum(const FloatProducts& products);

}  // namespace pronk
