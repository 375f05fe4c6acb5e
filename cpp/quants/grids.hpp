// The tables of GGUF's IQ types and MXFP4: what an index in a block stands for. They are part of the file format
// (ggml-common.h, gguf-py/gguf/quants.py).
//
// Data only, so that every instruction set may read them: this header defines no function.
#pragma once

#include <cstdint>

namespace pronk {

// An entry is eight (or four) values of a byte each, the first in the lowest byte.
template <class Word, int kCount>
struct Grid {
  Word entry[kCount];
};

extern const Grid<std::uint64_t, 256> kGridIQ2_XXS;  // magnitudes: 8, 25, 43
extern const Grid<std::uint64_t, 512> kGridIQ2_XS;
extern const Grid<std::uint64_t, 1024> kGridIQ2_S;
extern const Grid<std::uint32_t, 256> kGridIQ3_XXS;  // magnitudes: 4, 12, 20, 28, 36, 44, 52, 62
extern const Grid<std::uint32_t, 512> kGridIQ3_S;    // magnitudes: odd numbers from 1 to 15
extern const Grid<std::uint64_t, 2048> kGridIQ1;     // -8, 0, 8

// Entries once more, for look-ups in registers: levels in place of values, half of them in the byte low[i] and half in
// high[i]. Those of IQ2 are of two bits, those of IQ3 of four.
template <int kCount>
struct Codes {
  alignas(64) std::uint8_t low[kCount];
  alignas(64) std::uint8_t high[kCount];
};

extern const Codes<256> kCodesIQ2_XXS;
extern const Codes<512> kCodesIQ2_XS;
extern const Codes<256> kCodesIQ3_XXS;
extern const Codes<512> kCodesIQ3_S;

// Bit j of kSigns[i]: value j of eight is negative. Seven bits are free, and the eighth makes their number even.
extern const std::uint8_t kSigns[128];

alignas(16) extern const std::int8_t kIQ4Values[16];
alignas(16) extern const std::int8_t kMXFP4Values[16];

}  // namespace pronk
