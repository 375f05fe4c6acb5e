// isa_check [ISA...]: compares the instruction sets that run here with the portable kernels, and prints a line a check.
// Fails where one differs, or where one that was named does not run. `isa_check --list` only says what runs.
#include "isa_check.hpp"

int main(int count, char** arguments) {
  using namespace pronk;
  check::Report report;
  const std::string best = kernels().isa;
  std::string names = "portable";
  for (const char* isa : {"neon", "neon_i8mm", "avx2", "avx512"}) {
    if (kernels_for(isa) == nullptr) continue;
    report.isas.emplace_back(isa);
    names += std::string(" ") + isa;
  }
  std::printf("runs: %s; chosen: %s\n", names.c_str(), best.c_str());
  if (count > 1 && std::string(arguments[1]) == "--list") return 0;
  for (int i = 1; i < count; ++i) {
    if (kernels_for(arguments[i]) != nullptr) continue;
    std::printf("FAIL %s does not run here\n", arguments[i]);
    return 1;
  }
  check::check_matmul(report);
  check::check_layers(report);
  check::check_attention(report);
  check::check_sampling(report);
  check::check_peaks(report);
  check::check_encoders(report);
  std::printf("%d checks, %d failed\n", report.checks, report.failures);
  return report.failures == 0 ? 0 : 1;
}
