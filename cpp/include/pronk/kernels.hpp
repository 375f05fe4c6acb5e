// The table of kernels: what every instruction set provides, and the one that this process uses.
#pragma once

#include "pronk/layers.hpp"
#include "pronk/matmul.hpp"
#include "pronk/peaks.hpp"
#include "pronk/sampling.hpp"

namespace pronk {

struct Kernels {
  const char* isa;  // "portable", "avx2", "avx512", "neon", "neon_i8mm"
  MatmulKernels matmul;
  LayerKernels layers;
  SamplingKernels sampling;
  PeakKernels peaks{};  // where an instruction set names none, the portable ones run
};

// The best table for this CPU, chosen once, or what select_isa asked for (Python does so for PRONK_ISA).
const Kernels& kernels();

// False when this build or this CPU does not have it.
bool select_isa(const char* isa);

// Tables by instruction set, for comparing them with each other; null when not built or not runnable here.
const Kernels* kernels_for(const char* isa);

}  // namespace pronk
