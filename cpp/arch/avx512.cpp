#define PRONK_ISA avx512
#include "arch/avx512_matmul.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/vec16_avx512.hpp"
#include "pronk/kernels.hpp"

namespace pronk::avx512 {
extern const Kernels table;
const Kernels table{"avx512", matmul_kernels(), layer_kernels(), sampling_kernels()};
}  // namespace pronk::avx512
