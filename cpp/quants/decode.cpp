// Scalar decoding of each type, one function a type: what the numbers in a file mean. The products and sums are rounded
// as in the `gguf` package, bit for bit.
#include <array>
#include <cstring>
#include <type_traits>

#include "pronk/quants.hpp"
#include "quants/half.hpp"
#include "quants/unpack.hpp"

namespace pronk {

namespace {

void decode_f32(const std::uint8_t* data, std::size_t count, float* out) {
  std::memcpy(out, data, count * sizeof(float));
}

void decode_f16(const std::uint8_t* data, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = half_to_float(Half{data[2 * i], data[2 * i + 1]});
}

void decode_bf16(const std::uint8_t* data, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = bfloat16_to_float(static_cast<std::uint16_t>(data[2 * i] | data[2 * i + 1] << 8));
  }
}

void decode_block(const BlockQ4_0& block, float* out) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.q[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block.q[i] >> 4) - 8);
  }
}

void decode_block(const BlockQ4_1& block, float* out) {
  const float d = half_to_float(block.d), m = half_to_float(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block.q[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block.q[i] >> 4) + m;
  }
}

// The fifth bit of value i, in its place.
int fifth_bit(const std::uint8_t* high, int i) {
  return (high[i / 8] >> (i % 8) & 1) << 4;
}

void decode_block(const BlockQ5_0& block, float* out) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((block.q[i] & 15) | fifth_bit(block.high, i)) - 16);
    out[i + 16] = d * static_cast<float>(((block.q[i] >> 4) | fifth_bit(block.high, i + 16)) - 16);
  }
}

void decode_block(const BlockQ5_1& block, float* out) {
  const float d = half_to_float(block.d), m = half_to_float(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.q[i] & 15) | fifth_bit(block.high, i)) + m;
    out[i + 16] = d * static_cast<float>((block.q[i] >> 4) | fifth_bit(block.high, i + 16)) + m;
  }
}

void decode_block(const BlockQ8_0& block, float* out) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.q[i]);
}

void decode_block(const BlockQ4_K& block, float* out) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMin packed = unpack_scale(block.scales, group);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* q = block.q + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) out[32 * group + i] = scale * static_cast<float>(q[i] >> shift & 15) - min;
  }
}

void decode_block(const BlockQ5_K& block, float* out) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMin packed = unpack_scale(block.scales, group);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* q = block.q + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = (q[i] >> shift & 15) | (block.high[i] >> group & 1) << 4;
      out[32 * group + i] = scale * static_cast<float>(value) - min;
    }
  }
}

void decode_block(const BlockQ6_K& block, float* out) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, in_half = i % 128;
    const int low = block.low[64 * half + in_half % 64] >> (in_half / 64 * 4) & 15;
    const int high = block.high[32 * half + in_half % 32] >> (in_half / 32 * 2) & 3;
    const float scale = d * static_cast<float>(block.scales[i / 16]);
    out[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

// The types of unpack.hpp.
template <class Block>
void decode_whole_256(const std::uint8_t* data, std::size_t blocks, float* out) {
  constexpr bool kMins = std::is_same_v<Block, BlockQ2_K>;
  for (std::size_t b = 0; b < blocks; ++b) {
    Block256 block;
    unpack(reinterpret_cast<const Block*>(data)[b], block);
    for (int i = 0; i < 256; ++i) {
      const float scale = block.d * static_cast<float>(block.scale[i / 16]);
      const float value = scale * static_cast<float>(block.q[i]);
      out[256 * b + static_cast<unsigned>(i)] =
          kMins ? value - block.dmin * static_cast<float>(block.min[i / 16]) : value;
    }
  }
}

template <class Block>
void decode_whole_32(const std::uint8_t* data, std::size_t blocks, float* out) {
  for (std::size_t b = 0; b < blocks; ++b) {
    Block32 block;
    unpack(reinterpret_cast<const Block*>(data)[b], block);
    for (unsigned i = 0; i < 32; ++i) out[32 * b + i] = block.d * static_cast<float>(block.q[i]);
  }
}

template <class Block, int kValues>
void decode_blocks(const std::uint8_t* data, std::size_t blocks, float* out) {
  for (std::size_t i = 0; i < blocks; ++i) {
    Block block;
    std::memcpy(&block, data + i * sizeof(Block), sizeof(Block));
    decode_block(block, out + i * kValues);
  }
}

template <class Block, int kValues>
constexpr TypeInfo quantized(const char* name) {
  return {name, kValues, sizeof(Block), decode_blocks<Block, kValues>};
}

template <class Block>
constexpr TypeInfo whole_256(const char* name) {
  return {name, 256, sizeof(Block), decode_whole_256<Block>};
}

template <class Block>
constexpr TypeInfo whole_32(const char* name) {
  return {name, 32, sizeof(Block), decode_whole_32<Block>};
}

constexpr std::array<TypeInfo, kTypeLimit> make_table() {
  std::array<TypeInfo, kTypeLimit> table{};
  const auto set = [&](Type type, TypeInfo info) { table[static_cast<std::size_t>(type)] = info; };
  set(Type::kF32, {"F32", 1, 4, decode_f32});
  set(Type::kF16, {"F16", 1, 2, decode_f16});
  set(Type::kBF16, {"BF16", 1, 2, decode_bf16});
  set(Type::kQ4_0, quantized<BlockQ4_0, 32>("Q4_0"));
  set(Type::kQ4_1, quantized<BlockQ4_1, 32>("Q4_1"));
  set(Type::kQ5_0, quantized<BlockQ5_0, 32>("Q5_0"));
  set(Type::kQ5_1, quantized<BlockQ5_1, 32>("Q5_1"));
  set(Type::kQ8_0, quantized<BlockQ8_0, 32>("Q8_0"));
  set(Type::kQ4_K, quantized<BlockQ4_K, 256>("Q4_K"));
  set(Type::kQ5_K, quantized<BlockQ5_K, 256>("Q5_K"));
  set(Type::kQ6_K, quantized<BlockQ6_K, 256>("Q6_K"));
  set(Type::kQ2_K, whole_256<BlockQ2_K>("Q2_K"));
  set(Type::kQ3_K, whole_256<BlockQ3_K>("Q3_K"));
  set(Type::kIQ4_NL, whole_32<BlockIQ4_NL>("IQ4_NL"));
  set(Type::kIQ4_XS, whole_256<BlockIQ4_XS>("IQ4_XS"));
  set(Type::kIQ3_S, whole_256<BlockIQ3_S>("IQ3_S"));
  set(Type::kIQ3_XXS, whole_256<BlockIQ3_XXS>("IQ3_XXS"));
  set(Type::kIQ2_S, whole_256<BlockIQ2_S>("IQ2_S"));
  set(Type::kIQ2_XS, whole_256<BlockIQ2_XS>("IQ2_XS"));
  set(Type::kIQ2_XXS, whole_256<BlockIQ2_XXS>("IQ2_XXS"));
  set(Type::kIQ1_M, whole_256<BlockIQ1_M>("IQ1_M"));
  set(Type::kIQ1_S, whole_256<BlockIQ1_S>("IQ1_S"));
  set(Type::kTQ1_0, whole_256<BlockTQ1_0>("TQ1_0"));
  set(Type::kTQ2_0, whole_256<BlockTQ2_0>("TQ2_0"));
  set(Type::kMXFP4, whole_32<BlockMXFP4>("MXFP4"));
  return table;
}

constexpr std::array<TypeInfo, kTypeLimit> kTypes = make_table();

}  // namespace

const TypeInfo* type_info(int type) {
  if (type < 0 || type >= kTypeLimit || kTypes[static_cast<std::size_t>(type)].name == nullptr) return nullptr;
  return &kTypes[static_cast<std::size_t>(type)];
}

}  // namespace pronk
