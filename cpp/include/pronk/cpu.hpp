// What this CPU and its operating system can run.
#pragma once

namespace pronk {

struct CpuFeatures {
  bool avx2 = false;       // AVX2, FMA, F16C, BMI2
  bool avx512 = false;     // F, BW, DQ, VL, VBMI, VNNI
  bool neon = false;       // ARMv8.2 with dot products (sdot)
  bool neon_i8mm = false;  // and with products of int8 matrices (smmla)
};

const CpuFeatures& cpu_features();

}  // namespace pronk
