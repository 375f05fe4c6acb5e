#define PRONK_ISA portable
#include "arch/portable_matmul.hpp"
#include "kernels/attention_impl.hpp"
#include "kernels/layers_impl.hpp"
#include "kernels/sampling_impl.hpp"
#include "kernels/vec16_portable.hpp"
#include "pronk/kernels.hpp"

namespace pronk::portable {
extern const Kernels table;
const Kernels table{"portable", matmul_kernels(), layer_kernels(), sampling_kernels()};
}  // namespace pronk::portable
