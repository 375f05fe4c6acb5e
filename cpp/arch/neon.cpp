// The kernels for neon: NEON with dot products (sdot). As with arch/avx2.cpp, everything below is compiled once for
// each instruction set, in a namespace of its own.
#define PRONK_ISA neon
// clang-format off: each header uses those above it.
#include "pronk/kernels.hpp"
#include "kernels/vec16_neon.hpp"
#include "arch/neon_tile_dot.hpp"
#include "arch/neon_matmul.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/peak_impl.hpp"
#include "arch/neon_peaks_dot.hpp"
// clang-format on

namespace pronk::neon {

extern const Kernels table;
const Kernels table{"neon", matmul_kernels(), layer_kernels(), sampling_kernels(), peak_kernels<4>(int8_sum)};

}  // namespace pronk::neon
