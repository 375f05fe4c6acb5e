// 16-bit floats to float, exactly.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "pronk/quants.hpp"

namespace pronk {

// IEEE half: 1 sign, 5 exponent (bias 15), 10 mantissa bits. A mantissa moved to float's place is the right number but
// for the exponent's bias, which a product with 2^(127 - 15) puts right, for subnormal numbers too.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7fffu, sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

inline float half_to_float(Half half) {
  return half_to_float(static_cast<std::uint16_t>(half.bytes[0] | half.bytes[1] << 8));
}

// bfloat16 is the upper half of a float.
inline float bfloat16_to_float(std::uint16_t word) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(word) << 16);
}

// Group j's 6-bit scale and min, from the 12 bytes that hold eight of each (Q4_K, Q5_K).
//
//   bytes 0..3:  scale j in the low 6 bits, and above them the top 2 bits of scale j + 4
//   bytes 4..7:  min j in the low 6 bits, and above them the top 2 bits of min j + 4
//   bytes 8..11: low 4 bits of scale j + 4, low 4 bits of min j + 4
struct ScaleAndMin {
  std::uint8_t scale, min;
};

inline ScaleAndMin unpack_scale(const std::uint8_t* packed, int group) {
  if (group < 4) {
    return {static_cast<std::uint8_t>(packed[group] & 63), static_cast<std::uint8_t>(packed[group + 4] & 63)};
  }
  const int low = packed[group + 4], scale_top = packed[group - 4] >> 6, min_top = packed[group] >> 6;
  return {static_cast<std::uint8_t>((low & 15) | scale_top << 4), static_cast<std::uint8_t>((low >> 4) | min_top << 4)};
}

}  // namespace pronk
