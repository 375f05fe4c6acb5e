// What this CPU and its operating system can run.
#pragma once

namespace pronk {

struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA, F16C, BMI2
  bool avx512 = false;  // F, BW, DQ, VL, VBMI, VNNI
};

const CpuFeatures& cpu_features();

}  // namespace pronk
