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
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
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

// 256 values in 16 groups of 16: w = d * scale * q - dmin * min, q of 2 bits, scale and min of 4.
struct BlockQ2_K {
  std::uint8_t scales[16];  // scale in the low half, min in the high half
  std::uint8_t q[64];       // 32 bytes for 128 values: bits 2j, 2j + 1 of byte i belong to value 32j + i
  Half d, dmin;
};

// 256 values in 16 groups of 16: w = d * (scale - 32) * (q - 4), q of 3 bits, scale of 6.
struct BlockQ3_K {
  std::uint8_t high[32];  // bit j of byte i: the third bit of value 32j + i
  std::uint8_t low[64];   // two bits, as Q2_K
  // Bytes 0..7: low four bits of scale j in the low half, of scale j + 8 in the high half. Bytes 8..11: bits 2k, 2k + 1
  // of byte j are the top two of scale 4k + j.
  std::uint8_t scales[12];
  Half d;
};

// The values of the types below come from tables (quants/grids.hpp).

// 32 values: w = d * kIQ4Values[q].
struct BlockIQ4_NL {
  Half d;
  std::uint8_t q[16];  // as Q4_0
};

// 256 values in 8 groups of 32: w = d * (scale - 32) * kIQ4Values[q], scale of 6 bits.
struct BlockIQ4_XS {
  Half d;
  std::uint8_t scales_high[2];  // bits 2g, 2g + 1 of this little-endian word: the top two bits of scale g
  std::uint8_t scales_low[4];   // scale 2i in the low half, 2i + 1 in the high half
  std::uint8_t q[128];          // 16 bytes a group, as Q4_0
};

// 256 values in 8 groups of 32, in fours: w = d * (2 * scale + 1) * (+-)kGridIQ3_S[index], scale of 4 bits.
struct BlockIQ3_S {
  Half d;
  std::uint8_t q[64];      // low eight bits of each four's index
  std::uint8_t high[8];    // bit j of byte g: the ninth bit of four j of group g
  std::uint8_t signs[32];  // bit j of byte i: value 8i + j is negative
  std::uint8_t scales[4];  // as IQ4_XS
};

// As IQ3_S, with indices of eight bits: w = d / 4 * (2 * scale + 1) * (+-)kGridIQ3_XXS[index].
struct BlockIQ3_XXS {
  Half d;
  std::uint8_t q[64];
  std::uint8_t signs[8][4];  // a little-endian word a group: four sign indices (kSigns) of 7 bits, and the scale
};

// 256 values in 8 groups of 32, in eights: w = d / 8 * (2 * scale + 1) * (+-)kGridIQ2_XXS[index].
struct BlockIQ2_XXS {
  Half d;
  struct Group {
    std::uint8_t q[4];      // an eight's index each
    std::uint8_t signs[4];  // as IQ3_XXS
  } groups[8];
};

// 256 values in 16 groups of 16, in eights: w = d / 8 * (2 * scale + 1) * (+-)kGridIQ2_XS[index].
struct BlockIQ2_XS {
  Half d;
  std::uint8_t q[32][2];   // little-endian words: an index of 9 bits, and above it a sign index of 7
  std::uint8_t scales[8];  // scale 2i in the low half, 2i + 1 in the high half
};

// As IQ2_XS, with indices of ten bits and free signs: w = d / 8 * (2 * scale + 1) * (+-)kGridIQ2_S[index].
struct BlockIQ2_S {
  Half d;
  std::uint8_t q[32];      // low eight bits of each eight's index
  std::uint8_t signs[32];  // as IQ3_S
  std::uint8_t high[8];    // bits 2j, 2j + 1 of byte g: the top two bits of eight j of group g (of 32)
  std::uint8_t scales[8];
};

// 256 values in 8 groups of 32, in eights: w = d / 8 * (2 * scale + 1) * (kGridIQ1[index] +- 1), scale of 3 bits.
struct BlockIQ1_S {
  Half d;
  std::uint8_t q[32];       // low eight bits of each eight's index
  std::uint8_t high[8][2];  // a little-endian word a group: top three bits of each eight's index, the scale, and on top
};  // a bit that says minus one

// As IQ1_S, in 16 groups of 16, each eight with a plus or minus one of its own, and d in four pieces.
struct BlockIQ1_M {
  std::uint8_t q[32];
  std::uint8_t high[16];      // half a byte an eight: top three bits of its index, and the bit that says minus one
  std::uint8_t scales[4][2];  // little-endian words: four scales of three bits, and above them four bits of d
};

// 256 values: w = d * (q - 1), q = 0, 1, 2, five to a byte: a fraction of 256 whose digits to the base of three they
// are.
struct BlockTQ1_0 {
  std::uint8_t q[48];    // digit j of byte i: value 32j + i, and from byte 32 on value 160 + 16j + (i - 32)
  std::uint8_t high[4];  // digit j of byte i: value 240 + 4j + i
  Half d;
};

// 256 values: w = d * (q - 1).
struct BlockTQ2_0 {
  std::uint8_t q[64];  // as Q2_K
  Half d;
};

// 32 values: w = 2^(e - 128) * kMXFP4Values[q] (OCP Microscaling; the table holds doubled values).
struct BlockMXFP4 {
  std::uint8_t e;
  std::uint8_t q[16];  // as Q4_0
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 &&
              sizeof(BlockQ6_K) == 210);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockIQ4_NL) == 18 &&
              sizeof(BlockIQ4_XS) == 136 && sizeof(BlockIQ3_S) == 110 && sizeof(BlockIQ3_XXS) == 98);
static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82 &&
              sizeof(BlockIQ1_S) == 50 && sizeof(BlockIQ1_M) == 56);
static_assert(sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66 && sizeof(BlockMXFP4) == 17);

// A block of 256 in its plainest form: w = d * scale * q - dmin * min, a scale and a min for each 16 values.
struct alignas(64) Block256 {
  std::int8_t q[256];
  std::int16_t scale[16];
  std::int16_t min[16];
  float d, dmin;
};

// A block of 32: w = d * q + m.
struct alignas(32) Block32 {
  std::int8_t q[32];
  float d, m;
};

struct TypeInfo {
  const char* name;
  int block;  // values in a block
  int bytes;  // bytes in a block
  void (*decode)(const std::uint8_t* data, std::size_t blocks, float* out);
};

// Null for a type this version does not compute with.
const TypeInfo* type_info(int type);

}  // namespace pronk
