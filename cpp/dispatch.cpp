// Which table of kernels runs: CPU features, as the CPU reports them and the operating system allows them.
#include <atomic>
#include <cstddef>
#include <cstring>

#include "pronk/cpu.hpp"
#include "pronk/kernels.hpp"

#ifdef PRONK_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#ifdef PRONK_ARM
#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace pronk {

namespace portable {
extern const Kernels table;
}
#ifdef PRONK_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif
#ifdef PRONK_ARM
namespace neon {
extern const Kernels table;
}
namespace neon_i8mm {
extern const Kernels table;
}
#endif

namespace {

#ifdef PRONK_X86
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
#ifdef _MSC_VER
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {unsigned(out[0]), unsigned(out[1]), unsigned(out[2]), unsigned(out[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
#endif
  return r;
}

// The register sets that the operating system saves when it switches threads.
unsigned enabled_state() {
#ifdef _MSC_VER
  return static_cast<unsigned>(_xgetbv(0));
#else
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
#endif
}

CpuFeatures detect() {
  constexpr auto bit = [](unsigned word, int n) { return ((word >> n) & 1u) != 0; };
  CpuFeatures features;
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  const bool osxsave = bit(one.c, 27);
  const unsigned state = osxsave ? enabled_state() : 0;
  const bool ymm = (state & 0x06u) == 0x06u;                                 // SSE and AVX registers
  const bool zmm = ymm && (state & 0xe0u) == 0xe0u;                          // masks and both halves of the zmm file
  features.avx2 = ymm && bit(one.c, 28) && bit(one.c, 12) && bit(one.c, 29)  // AVX, FMA, F16C
                  && bit(seven.b, 5) && bit(seven.b, 8);                     // AVX2, BMI2
  features.avx512 = features.avx2 && zmm && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30)  // F, DQ, BW
                    && bit(seven.b, 31) && bit(seven.c, 1) && bit(seven.c, 11);                       // VL, VBMI, VNNI
  return features;
}
#elif defined(PRONK_ARM) && defined(__APPLE__)
CpuFeatures detect() {
  const auto has = [](const char* feature) {
    int value = 0;
    std::size_t size = sizeof(value);
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  CpuFeatures features;
  features.neon = has("hw.optional.arm.FEAT_DotProd");
  features.neon_i8mm = features.neon && has("hw.optional.arm.FEAT_I8MM");
  return features;
}
#elif defined(PRONK_ARM) && defined(__linux__)
CpuFeatures detect() {
  // Bits of Linux's interface (arch/arm64/include/uapi/asm/hwcap.h), which older headers do not all name.
  constexpr unsigned long kDotProducts = 1ul << 20, kInt8Matrices = 1ul << 13;
  CpuFeatures features;
  features.neon = (getauxval(AT_HWCAP) & kDotProducts) != 0;
  features.neon_i8mm = features.neon && (getauxval(AT_HWCAP2) & kInt8Matrices) != 0;
  return features;
}
#else
CpuFeatures detect() {
  return {};
}
#endif

// A new instruction set is named here, in kernels_for below, and in CMakeLists.txt.
const Kernels* best() {
#ifdef PRONK_X86
  if (cpu_features().avx512) return &avx512::table;
  if (cpu_features().avx2) return &avx2::table;
#endif
#ifdef PRONK_ARM
  if (cpu_features().neon_i8mm) return &neon_i8mm::table;
  if (cpu_features().neon) return &neon::table;
#endif
  return &portable::table;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

const Kernels* kernels_for(const char* isa) {
  if (std::strcmp(isa, "portable") == 0) return &portable::table;
#ifdef PRONK_X86
  if (std::strcmp(isa, "avx2") == 0 && cpu_features().avx2) return &avx2::table;
  if (std::strcmp(isa, "avx512") == 0 && cpu_features().avx512) return &avx512::table;
#endif
#ifdef PRONK_ARM
  if (std::strcmp(isa, "neon") == 0 && cpu_features().neon) return &neon::table;
  if (std::strcmp(isa, "neon_i8mm") == 0 && cpu_features().neon_i8mm) return &neon_i8mm::table;
#endif
  return nullptr;
}

bool select_isa(const char* isa) {
  const Kernels* table = kernels_for(isa);
  if (table != nullptr) chosen.store(table, std::memory_order_relaxed);
  return table != nullptr;
}

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (table == nullptr) {
    table = best();
    chosen.store(table, std::memory_order_relaxed);
  }
  return *table;
}

}  // namespace pronk
