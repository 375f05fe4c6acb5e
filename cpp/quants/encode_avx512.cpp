// The encoders for avx512. As with the kernels (arch/avx512.cpp), everything below is compiled once for each
// instruction set, in a namespace of its own.
#define PRONK_ISA avx512
// clang-format off: each header uses those above it.
#include "kernels/vec16_avx512.hpp"
#include "quants/encode_impl.hpp"
// clang-format on

namespace pronk::avx512 {

extern const Encoders encoders;
const Encoders encoders = make_encoders();

}  // namespace pronk::avx512
