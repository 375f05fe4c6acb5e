// Rows of float32 to blocks of GGUF's types, with the levels of least weighted squared error that the search finds.
#pragma once

#include <cstdint>

namespace pronk {

// Whether encode() knows GGUF's type `type`. Float types are not its business.
bool can_encode(int type);

// `count` values, whole blocks of `type`, to `out`. `importance` is null or has one weight, finite and not negative,
// for each of `cols` columns: value i has the weight importance[i % cols], and `cols` is a multiple of the block.
//
// Returns -1, or the index of the first value that is infinite or NaN; `out` then holds nothing of use.
//
// A block depends on its own values and weights alone: neither on the number of threads nor on the instruction set.
std::int64_t encode(const float* values, std::int64_t count, std::int64_t cols, int type, const float* importance,
                    std::uint8_t* out);

}  // namespace pronk
