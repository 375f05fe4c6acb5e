#pragma once
#include "pronk/sampling.hpp"
namespace pronk::PRONK_ISA {
inline SamplingKernels sampling_kernels() { return {}; }
}  // namespace pronk::PRONK_ISA
