// The kernels for avx512: everything below is compiled once for each instruction set, in a namespace of its own, so
// that the linker can never take a function compiled for one CPU in place of the same function for another. For the
// same reason nothing of the standard library that is more than a type or a constant is used in these headers.
#define PRONK_ISA avx512
// clang-format off: each header uses those above it.
#include "pronk/kernels.hpp"
#include "kernels/vec16_avx512.hpp"
#include "arch/avx512_matmul.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/peak_impl.hpp"
#include "arch/avx512_peaks.hpp"
// clang-format on

namespace pronk::avx512 {

extern const Kernels table;
const Kernels table{"avx512", matmul_kernels(), layer_kernels(), sampling_kernels(), peak_kernels<12>(int8_sum)};

}  // namespace pronk::avx512
