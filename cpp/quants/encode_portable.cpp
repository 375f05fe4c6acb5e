// The encoders for portable. As with the kernels (arch/portable.cpp), everything below is compiled once for each
// instruction set, in a namespace of its own.
#define PRONK_ISA portable
// clang-format off: each header uses those above it.
#include "kernels/vec16_portable.hpp"
#include "quants/encode_impl.hpp"
// clang-format on

namespace pronk::portable {

extern const Encoders encoders;
const Encoders encoders = make_encoders();

}  // namespace pronk::portable
