// The kernels for neon_i8mm: NEON with products of int8 matrices (smmla). As with arch/avx2.cpp, everything below is
// compiled once for each instruction set, in a namespace of its own.
#define PRONK_ISA neon_i8mm
// clang-format off: each header uses those above it.
#include "pronk/kernels.hpp"
#include "kernels/vec16_neon.hpp"
#include "arch/neon_tile_i8mm.hpp"
#include "arch/neon_matmul.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/peak_impl.hpp"
#include "arch/neon_peaks_i8mm.hpp"
// clang-format on

namespace pronk::neon_i8mm {

extern const Kernels table;
const Kernels table{"neon_i8mm", matmul_kernels(), layer_kernels(), sampling_kernels(), peak_kernels<4>(int8_sum)};

}  // namespace pronk::neon_i8mm
