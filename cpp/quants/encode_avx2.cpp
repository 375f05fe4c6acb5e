// The encoders for avx2. As with the kernels (arch/avx2.cpp), everything below is compiled once for each instruction
// set, in a namespace of its own.
#define PRONK_ISA avx2
// clang-format off: each header uses those above it.
#include "kernels/vec16_avx2.hpp"
#include "quants/encode_impl.hpp"
// clang-format on

namespace pronk::avx2 {

extern const Encoders encoders;
const Encoders encoders = make_encoders();

}  // namespace pronk::avx2
