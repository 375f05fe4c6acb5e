// The encoders for neon, which neon_i8mm uses too. As with the kernels (arch/avx2.cpp), everything below is compiled
// once for each instruction set, in a namespace of its own.
#define PRONK_ISA neon
// clang-format off: each header uses those above it.
#include "kernels/vec16_neon.hpp"
#include "quants/encode_impl.hpp"
// clang-format on

namespace pronk::neon {

extern const Encoders encoders;
const Encoders encoders = make_encoders();

}  // namespace pronk::neon
