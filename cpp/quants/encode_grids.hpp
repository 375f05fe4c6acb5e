// Encoders of the types whose values are entries of a grid: IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_M, IQ1_S. What
// is best for a block is found in encode_grid_search.hpp; here it is written.
#pragma once

namespace pronk::PRONK_ISA {

inline void put_word_16(unsigned word, std::uint8_t* out) {
  out[0] = static_cast<std::uint8_t>(word & 255);
  out[1] = static_cast<std::uint8_t>(word >> 8 & 255);
}

inline void put_word_32(std::uint32_t word, std::uint8_t* out) {
  put_word_16(word & 0xffffu, out);
  put_word_16(word >> 16, out + 2);
}

inline void or_into(std::uint8_t& byte, int bits) {
  byte = static_cast<std::uint8_t>(byte | bits);
}

template <class Form>
void put_nibble_scales(const GridFit<Form>& fit, std::uint8_t* out) {
  for (int g = 0; g < GridFit<Form>::kGroups; ++g) or_into(out[g / 2], fit.k[g] << g % 2 * 4);
}

// Four sign indices (the eighth sign follows of their even number) and the scale.
inline std::uint32_t signs_and_scale(const GridGroup& group, int k) {
  std::uint32_t word = static_cast<std::uint32_t>(k) << 28;
  for (int e = 0; e < 4; ++e) word |= (group.signs[e] & 127u) << 7 * e;
  return word;
}

inline void encode_iq3_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ3_S*>(bytes);
  clear(bytes, sizeof(BlockIQ3_S));
  GridFit<SignedGrid<Book::kIQ3_S, 32, 4, false>> fit;
  if (!fit_grid_block(values, importance, 1.0f, 0.168f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int i = 0; i < 64; ++i) {
    const int entry = fit.group[i / 8].entry[i % 8];
    out.q[i] = static_cast<std::uint8_t>(entry & 255);
    or_into(out.high[i / 8], entry >> 8 << i % 8);
  }
  for (int e = 0; e < 32; ++e) out.signs[e] = fit.group[e / 4].signs[e % 4];
}

inline void encode_iq3_xxs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ3_XXS*>(bytes);
  clear(bytes, sizeof(BlockIQ3_XXS));
  GridFit<SignedGrid<Book::kIQ3_XXS, 32, 4, true>> fit;
  if (!fit_grid_block(values, importance, 0.25f, 0.042f, fit)) return;
  put_half(out.d, fit.d);
  for (int i = 0; i < 64; ++i) out.q[i] = static_cast<std::uint8_t>(fit.group[i / 8].entry[i % 8]);
  for (int g = 0; g < 8; ++g) put_word_32(signs_and_scale(fit.group[g], fit.k[g]), out.signs[g]);
}

inline void encode_iq2_xxs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_XXS*>(bytes);
  clear(bytes, sizeof(BlockIQ2_XXS));
  GridFit<SignedGrid<Book::kIQ2_XXS, 32, 8, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  for (int g = 0; g < 8; ++g) {
    for (int e = 0; e < 4; ++e) out.groups[g].q[e] = static_cast<std::uint8_t>(fit.group[g].entry[e]);
    put_word_32(signs_and_scale(fit.group[g], fit.k[g]), out.groups[g].signs);
  }
}

inline void encode_iq2_xs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_XS*>(bytes);
  clear(bytes, sizeof(BlockIQ2_XS));
  GridFit<SignedGrid<Book::kIQ2_XS, 16, 8, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    put_word_16(group.entry[e % 2] | (group.signs[e % 2] & 127u) << 9, out.q[e]);
  }
}

inline void encode_iq2_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_S*>(bytes);
  clear(bytes, sizeof(BlockIQ2_S));
  GridFit<SignedGrid<Book::kIQ2_S, 16, 8, false>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    const int entry = group.entry[e % 2];
    out.q[e] = static_cast<std::uint8_t>(entry & 255);
    out.signs[e] = group.signs[e % 2];
    or_into(out.high[e / 4], entry >> 8 << e % 4 * 2);
  }
}

inline void encode_iq1_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ1_S*>(bytes);
  clear(bytes, sizeof(BlockIQ1_S));
  GridFit<ShiftedGrid<32, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.153f, fit)) return;
  put_half(out.d, fit.d);
  for (int g = 0; g < 8; ++g) {
    const GridGroup& group = fit.group[g];
    unsigned word = static_cast<unsigned>(fit.k[g]) << 12 | static_cast<unsigned>(group.signs[0]) << 15;
    for (int e = 0; e < 4; ++e) {
      out.q[4 * g + e] = static_cast<std::uint8_t>(group.entry[e] & 255);
      word |= static_cast<unsigned>(group.entry[e] >> 8) << 3 * e;
    }
    put_word_16(word, out.high[g]);
  }
}

inline void encode_iq1_m(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ1_M*>(bytes);
  clear(bytes, sizeof(BlockIQ1_M));
  GridFit<ShiftedGrid<16, false>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.153f, fit)) return;
  for (int i = 0; i < 4; ++i) {
    unsigned word = (fit.d.half >> 4 * i & 15u) << 12;
    for (int g = 0; g < 4; ++g) word |= static_cast<unsigned>(fit.k[4 * i + g]) << 3 * g;
    put_word_16(word, out.scales[i]);
  }
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    out.q[e] = static_cast<std::uint8_t>(group.entry[e % 2] & 255);
    or_into(out.high[e / 2], (group.entry[e % 2] >> 8 | group.signs[e % 2] << 3) << e % 2 * 4);
  }
}

}  // namespace pronk::PRONK_ISA
