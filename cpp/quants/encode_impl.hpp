// The encoders' table, for whichever instruction set includes this file after its Vec16.
#pragma once

// clang-format off: each header uses those above it.
#include "quants/encoders.hpp"
#include "quants/grids.hpp"
#include "quants/encode_fit.hpp"
#include "quants/encode_32.hpp"
#include "quants/encode_k.hpp"
#include "quants/encode_tables.hpp"
#include "quants/encode_lines.hpp"
#include "quants/encode_grid_search.hpp"
#include "quants/encode_grids.hpp"
// clang-format on

namespace pronk::PRONK_ISA {

constexpr Encoders make_encoders() {
  Encoders table{};
  const auto set = [&](Type type, EncodeBlock encode) { table.block[static_cast<int>(type)] = encode; };
  set(Type::kQ4_0, encode_q4_0);
  set(Type::kQ4_1, encode_q4_1);
  set(Type::kQ5_0, encode_q5_0);
  set(Type::kQ5_1, encode_q5_1);
  set(Type::kQ8_0, encode_q8_0);
  set(Type::kQ2_K, encode_q2_k);
  set(Type::kQ3_K, encode_q3_k);
  set(Type::kQ4_K, encode_q4_k);
  set(Type::kQ5_K, encode_q5_k);
  set(Type::kQ6_K, encode_q6_k);
  set(Type::kIQ4_NL, encode_iq4_nl);
  set(Type::kIQ4_XS, encode_iq4_xs);
  set(Type::kIQ3_S, encode_iq3_s);
  set(Type::kIQ3_XXS, encode_iq3_xxs);
  set(Type::kIQ2_S, encode_iq2_s);
  set(Type::kIQ2_XS, encode_iq2_xs);
  set(Type::kIQ2_XXS, encode_iq2_xxs);
  set(Type::kIQ1_M, encode_iq1_m);
  set(Type::kIQ1_S, encode_iq1_s);
  set(Type::kTQ1_0, encode_tq1_0);
  set(Type::kTQ2_0, encode_tq2_0);
  set(Type::kMXFP4, encode_mxfp4);
  return table;
}

}  // namespace pronk::PRONK_ISA
