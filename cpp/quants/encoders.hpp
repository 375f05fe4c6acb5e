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

// A grid's entries (grids.hpp), each cut in two halves of two parts each. A part is a value of eight levels (IQ3) or a
// pair of values of three levels (IQ1, IQ2), so it has 8 or 9 states, and a half has the state 16 * (state of its
// second part) + (state of its first). Entries are sorted by the state of their first half: when the costs of all
// states are known, most of the grid is ruled out unseen.
struct Codebook {
  static constexpr int kStates = 9 * 16;
  static constexpr int kEntries = 2048;
  static constexpr int kPoints = 6561;  // 3^8, the ways to round an entry's values; 8^4 are fewer

  int rows;            // states of a part
  int values;          // values of an entry: 4 or 8
  float level[2][16];  // a part's two values (one, if it has one) in each of its states
  float unused[16];    // 0 for a state, huge for a place that is none
  std::uint16_t start[kStates + 1];
  std::uint8_t second[kEntries];   // the state of the second half, sorted as said
  std::uint16_t entry[kEntries];   // the entry's index in the grid, sorted as said
  std::int8_t value[kEntries][8];  // by the index in the grid

  // For a quick guess: a value's level is about (value - base) / step, from 0 to levels - 1, and nearest[p] is the
  // entry nearest to the point whose levels are p's digits, the first lowest.
  float base, step;
  int levels;
  std::uint16_t nearest[kPoints];
};

enum class Book { kIQ3_S, kIQ3_XXS, kIQ2_S, kIQ2_XS, kIQ2_XXS, kIQ1 };

// Built at first use.
const Codebook& codebook(Book book);

}  // namespace pronk
