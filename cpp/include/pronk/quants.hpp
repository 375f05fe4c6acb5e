// The block layouts of GGUF's tensor types, and their scalar decoding: the readable reference.
//
// Layouts and ids are those of ggml (ggml-common.h `block_q4_K` and its like); GGUF files store them little-endian.
// Every member is made of bytes or of 16-bit words kept as bytes, so a block may lie at any address of a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pronk {

// GGUF's numbers.
enum class Type : int {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};
constexpr int kTypeLimit = 40;  // tables by type have this many places

// An fp16 number in a file, at any address.
struct Half {
  std::uint8_t bytes[2];
};

// 32 values: w = d * (q - 8).
struct BlockQ4_0 {
  Half d;
  std::uint8_t q[16];  // q[i]: value i in the low half, value i + 16 in the high half
};

// 32 values: w = d * q + m.
struct BlockQ4_1 {
  Half d, m;
  std::uint8_t q[16];  // as Q4_0
};

// 32 values: w = d * (q - 16).
struct BlockQ5_0 {
  Half d;
  std::uint8_t high[4];  // bit i of this little-endian word: the fifth bit of value i
  std::uint8_t q[16];    // low four bits, as Q4_0
};

// 32 values: w = d * q + m.
struct BlockQ5_1 {
  Half d, m;
  std::uint8_t high[4];
  std::uint8_t q[16];
};

// 32 values: w = d * q.
struct BlockQ8_0 {
  Half d;
  std::int8_t q[32];
};

// 256 values in 8 groups of 32: w = d * scale * q - dmin * min, with 6-bit scales and mins.
struct BlockQ4_K {
  Half d, dmin;
  std::uint8_t scales[12];  // see unpack_scales
  std::uint8_t q[128];      // 32 bytes for two groups: group 2i in the low halves, group 2i + 1 in the high halves
};

// As Q4_K, with a fifth bit: bit g of high[i] belongs to value i of group g.
struct BlockQ5_K {
  Half d, dmin;
  std::uint8_t scales[12];
  std::uint8_t high[32];
  std::uint8_t q[128];
};

// 256 values in 16 groups of 16: w = d * scale * (q - 32), q of 6 bits, two halves of 128 values each.
struct BlockQ6_K {
  std::uint8_t low[128];  // 64 bytes a half: values 0..63 in the low nibbles, 64..127 in the high nibbles
  std::uint8_t high[64];  // 32 bytes a half: bits 2j, 2j + 1 of byte i belong to value 32j + i
  std::int8_t scales[16];
  Half d;
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 &&
              sizeof(BlockQ6_K) == 210);

struct TypeInfo {
  const char* name;
  int block;  // values in a block
  int bytes;  // bytes in a block
  void (*decode)(const std::uint8_t* data, std::size_t blocks, float* out);
};

// Null for a type this version does not compute with.
const TypeInfo* type_info(int type);

}  // namespace pronk
