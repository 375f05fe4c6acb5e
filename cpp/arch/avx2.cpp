#define PRONK_ISA avx2
#include "arch/avx2_matmul.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/vec16_avx2.hpp"
#include "pronk/kernels.hpp"

namespace pronk::avx2 {
extern const Kernels table;
const Kernels table{"avx2", matmul_kernels(), layer_kernels(), sampling_kernels()};
}  // namespace pronk::avx2
