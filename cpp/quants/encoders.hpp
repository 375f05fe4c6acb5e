// What the encoders of each instruction set share: the form of their table, and the grids laid out for searching.
#pragma once

#include <cstdint>

#include "pronk/quants.hpp"

namespace pronk {

// One block of finite values; `importance` is null or has a weight for each of them.
using EncodeBlock = void (*)(const float* values, const float* importance, std::uint8_t* out);

struct Encoders {
  EncodeBlock block[kTypeLimit];  // null for a type that is not encoded
};

// A grid's entries, sixteen side by side: level[e / 16][j][e % 16] is value j of entry e.
struct Codebook {
  static constexpr int kEntries = 2048;  // of the largest grid; all have whole vectors of them

  int entries;
  float lowest, highest;  // levels
  alignas(64) float level[kEntries / 16][8][16];
};

enum class Book { kIQ3_S, kIQ3_XXS, kIQ2_S, kIQ2_XS, kIQ2_XXS, kIQ1 };

// Built at first use.
const Codebook& codebook(Book book);

}  // namespace pronk
