// Unpackers and dot products in plain C++: what every instruction set's results are compared with.
#pragma once

namespace pronk::portable {

// Values of float_matmul.hpp's tile: rows of x by weight rows.
constexpr int kFloatTileTokens = 1;
constexpr int kFloatTileWeights = 2;
constexpr bool kCopyRows = true;

}  // namespace pronk::portable

#include "kernels/float_matmul.hpp"
#include "kernels/quantize_impl.hpp"
#include "kernels/row_matmul.hpp"
#include "quants/unpack.hpp"

namespace pronk::portable {

inline float half(Half h) {
  return f16_to_float(static_cast<std::uint16_t>(h.bytes[0] | h.bytes[1] << 8));
}

template <class Block>
inline const Block& block_at(const std::uint8_t* p) {
  static_assert(alignof(Block) == 1);
  return *reinterpret_cast<const Block*>(p);
}

struct UnpackQ4_0 {
  static constexpr int kBytes = sizeof(BlockQ4_0);
  static constexpr bool kMins = false;
  static void unpack(const std::uint8_t* p, Block32& out) {
    const auto& in = block_at<BlockQ4_0>(p);
    out.d = half(in.d);
    for (int i = 0; i < 16; ++i) {
      out.q[i] = static_cast<std::int8_t>((in.q[i] & 15) - 8);
      out.q[i + 16] = static_cast<std::int8_t>((in.q[i] >> 4) - 8);
    }
  }
};

struct UnpackQ4_1 {
  static constexpr int kBytes = sizeof(BlockQ4_1);
  static constexpr bool kMins = true;
  static void unpack(const std::uint8_t* p, Block32& out) {
    const auto& in = block_at<BlockQ4_1>(p);
    out.d = half(in.d);
    out.m = half(in.m);
    for (int i = 0; i < 16; ++i) {
      out.q[i] = static_cast<std::int8_t>(in.q[i] & 15);
      out.q[i + 16] = static_cast<std::int8_t>(in.q[i] >> 4);
    }
  }
};

// The 32 values of five bits of Q5_0 and Q5_1, less `offset`.
inline void unpack_5_bits(const std::uint8_t* q, const std::uint8_t* high, int offset, std::int8_t* out) {
  for (int i = 0; i < 16; ++i) {
    const int low_value = (q[i] & 15) | (high[i / 8] >> i % 8 & 1) << 4;
    const int high_value = (q[i] >> 4) | (high[2 + i / 8] >> i % 8 & 1) << 4;
    out[i] = static_cast<std::int8_t>(low_value - offset);
    out[i + 16] = static_cast<std::int8_t>(high_value - offset);
  }
}

struct UnpackQ5_0 {
  static constexpr int kBytes = sizeof(BlockQ5_0);
  static constexpr bool kMins = false;
  static void unpack(const std::uint8_t* p, Block32& out) {
    const auto& in = block_at<BlockQ5_0>(p);
    out.d = half(in.d);
    unpack_5_bits(in.q, in.high, 16, out.q);
  }
};

struct UnpackQ5_1 {
  static constexpr int kBytes = sizeof(BlockQ5_1);
  static constexpr bool kMins = true;
  static void unpack(const std::uint8_t* p, Block32& out) {
    const auto& in = block_at<BlockQ5_1>(p);
    out.d = half(in.d);
    out.m = half(in.m);
    unpack_5_bits(in.q, in.high, 0, out.q);
  }
};

struct UnpackQ8_0 {
  static constexpr int kBytes = sizeof(BlockQ8_0);
  static constexpr bool kMins = false;
  static void unpack(const std::uint8_t* p, Block32& out) {
    const auto& in = block_at<BlockQ8_0>(p);
    out.d = half(in.d);
    __builtin_memcpy(out.q, in.q, 32);
  }
};

// The eight 6-bit scales and mins of Q4_K and Q5_K (see unpack_scale in quants/half.hpp), each for two groups of 16.
inline void unpack_scales(const std::uint8_t* packed, std::int16_t* scale, std::int16_t* min) {
  for (int g = 0; g < 4; ++g) {
    const int last = packed[g + 8];
    const int low_scale = packed[g] & 63, low_min = packed[g + 4] & 63;
    const int high_scale = (last & 15) | (packed[g] >> 6) << 4, high_min = last >> 4 | (packed[g + 4] >> 6) << 4;
    scale[2 * g] = scale[2 * g + 1] = static_cast<std::int16_t>(low_scale);
    scale[2 * g + 8] = scale[2 * g + 9] = static_cast<std::int16_t>(high_scale);
    min[2 * g] = min[2 * g + 1] = static_cast<std::int16_t>(low_min);
    min[2 * g + 8] = min[2 * g + 9] = static_cast<std::int16_t>(high_min);
  }
}

struct UnpackQ4_K {
  static constexpr int kBytes = sizeof(BlockQ4_K);
  static constexpr bool kMins = true;
  static void unpack(const std::uint8_t* p, Block256& out) {
    const auto& in = block_at<BlockQ4_K>(p);
    out.d = half(in.d);
    out.dmin = half(in.dmin);
    unpack_scales(in.scales, out.scale, out.min);
    for (int pair = 0; pair < 4; ++pair) {
      for (int i = 0; i < 32; ++i) {
        out.q[64 * pair + i] = static_cast<std::int8_t>(in.q[32 * pair + i] & 15);
        out.q[64 * pair + 32 + i] = static_cast<std::int8_t>(in.q[32 * pair + i] >> 4);
      }
    }
  }
};

struct UnpackQ5_K {
  static constexpr int kBytes = sizeof(BlockQ5_K);
  static constexpr bool kMins = true;
  static void unpack(const std::uint8_t* p, Block256& out) {
    const auto& in = block_at<BlockQ5_K>(p);
    out.d = half(in.d);
    out.dmin = half(in.dmin);
    unpack_scales(in.scales, out.scale, out.min);
    for (int pair = 0; pair < 4; ++pair) {
      for (int i = 0; i < 32; ++i) {
        const int low = in.q[32 * pair + i], high = in.high[i] >> 2 * pair;
        out.q[64 * pair + i] = static_cast<std::int8_t>((low & 15) | (high & 1) << 4);
        out.q[64 * pair + 32 + i] = static_cast<std::int8_t>(low >> 4 | (high & 2) << 3);
      }
    }
  }
};

struct UnpackQ6_K {
  static constexpr int kBytes = sizeof(BlockQ6_K);
  static constexpr bool kMins = false;
  static void unpack(const std::uint8_t* p, Block256& out) {
    const auto& in = block_at<BlockQ6_K>(p);
    out.d = half(in.d);
    for (int g = 0; g < 16; ++g) out.scale[g] = in.scales[g];
    for (int part = 0; part < 8; ++part) {  // of 32 values: 4 in each half
      const std::uint8_t* low = in.low + part / 4 * 64 + part % 2 * 32;
      const std::uint8_t* high = in.high + part / 4 * 32;
      const int low_shift = part / 2 % 2 * 4, high_shift = part % 4 * 2;
      for (int i = 0; i < 32; ++i) {
        const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
        out.q[32 * part + i] = static_cast<std::int8_t>(value - 32);
      }
    }
  }
};

// The types of quants/unpack.hpp.
template <class Block>
struct UnpackWhole {
  static constexpr int kBytes = sizeof(Block);
  static constexpr bool kMins = __is_same(Block, BlockQ2_K);
  template <class Whole>
  static void unpack(const std::uint8_t* p, Whole& out) {
    pronk::unpack(block_at<Block>(p), out);
  }
};

template <class Unpacker>
inline BlockSums dot_256(const Block256& w, const std::int8_t* a, const std::int16_t* sums16) {
  BlockSums sums{0, 0};
  for (int g = 0; g < 16; ++g) {
    int sum = 0;
    for (int i = 16 * g; i < 16 * g + 16; ++i) sum += w.q[i] * a[i];
    sums.values += w.scale[g] * sum;
    if constexpr (Unpacker::kMins) sums.mins += w.min[g] * sums16[g];
  }
  return sums;
}

template <class Unpacker>
inline std::int32_t dot_32(const Block32& w, const std::int8_t* a) {
  std::int32_t sum = 0;
  for (int i = 0; i < 32; ++i) sum += w.q[i] * a[i];
  return sum;
}

constexpr MatmulKernels matmul_kernels() {
  MatmulKernels kernels{};
  kernels.quantize = quantize_row;
  set_float_kernels(kernels, 8);
  set_row_kernel(kernels, Type::kQ4_0, matmul_32<UnpackQ4_0>);
  set_row_kernel(kernels, Type::kQ4_1, matmul_32<UnpackQ4_1>);
  set_row_kernel(kernels, Type::kQ5_0, matmul_32<UnpackQ5_0>);
  set_row_kernel(kernels, Type::kQ5_1, matmul_32<UnpackQ5_1>);
  set_row_kernel(kernels, Type::kQ8_0, matmul_32<UnpackQ8_0>);
  set_row_kernel(kernels, Type::kQ4_K, matmul_256<UnpackQ4_K>);
  set_row_kernel(kernels, Type::kQ5_K, matmul_256<UnpackQ5_K>);
  set_row_kernel(kernels, Type::kQ6_K, matmul_256<UnpackQ6_K>);
  set_row_kernel(kernels, Type::kQ2_K, matmul_256<UnpackWhole<BlockQ2_K>>);
  set_row_kernel(kernels, Type::kQ3_K, matmul_256<UnpackWhole<BlockQ3_K>>);
  set_row_kernel(kernels, Type::kIQ4_NL, matmul_32<UnpackWhole<BlockIQ4_NL>>);
  set_row_kernel(kernels, Type::kIQ4_XS, matmul_256<UnpackWhole<BlockIQ4_XS>>);
  set_row_kernel(kernels, Type::kIQ3_S, matmul_256<UnpackWhole<BlockIQ3_S>>);
  set_row_kernel(kernels, Type::kIQ3_XXS, matmul_256<UnpackWhole<BlockIQ3_XXS>>);
  set_row_kernel(kernels, Type::kIQ2_S, matmul_256<UnpackWhole<BlockIQ2_S>>);
  set_row_kernel(kernels, Type::kIQ2_XS, matmul_256<UnpackWhole<BlockIQ2_XS>>);
  set_row_kernel(kernels, Type::kIQ2_XXS, matmul_256<UnpackWhole<BlockIQ2_XXS>>);
  set_row_kernel(kernels, Type::kIQ1_M, matmul_256<UnpackWhole<BlockIQ1_M>>);
  set_row_kernel(kernels, Type::kIQ1_S, matmul_256<UnpackWhole<BlockIQ1_S>>);
  set_row_kernel(kernels, Type::kTQ1_0, matmul_256<UnpackWhole<BlockTQ1_0>>);
  set_row_kernel(kernels, Type::kTQ2_0, matmul_256<UnpackWhole<BlockTQ2_0>>);
  set_row_kernel(kernels, Type::kMXFP4, matmul_32<UnpackWhole<BlockMXFP4>>);
  return kernels;
}

}  // namespace pronk::portable
