// Encoders of the types of 4 bits whose levels are a table (IQ4_NL, IQ4_XS, MXFP4), and of the ternary ones (TQ1_0,
// TQ2_0).
#pragma once

namespace pronk::PRONK_ISA {

// Where each of a table's values stands, by value + 128; of equal ones the first.
struct Places {
  std::uint8_t of[256] = {};
  constexpr explicit Places(const std::int8_t* table) {
    for (int i = 15; i >= 0; --i) of[table[i] + 128] = static_cast<std::uint8_t>(i);
  }
};

inline std::uint8_t iq4_place(float level) {
  static const Places places(kIQ4Values);
  return places.of[static_cast<int>(level) + 128];
}

constexpr Ladder kIQ4Ladder{1.12f, 0.7f, 10};

inline void encode_iq4_nl(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ4_NL*>(bytes);
  clear(bytes, sizeof(BlockIQ4_NL));
  Plain<32> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  const auto group = group_at<2>(block, 0);
  const IQ4Levels levels;
  const Scale d = to_scale(fit_scale(group, levels, kIQ4Ladder).scale(), block);
  const Vec16 inverse = broadcast(inverse_of(d.value));
  const Vec16 nearest[2] = {levels.nearest(mul(group.x[0], inverse)), levels.nearest(mul(group.x[1], inverse))};
  put_half(out.d, to_scale(d.value * stretch(block, d.value * project(group, nearest).xl), block));
  alignas(64) float level[32];
  for (int v = 0; v < 2; ++v) store(level + 16 * v, nearest[v]);
  std::uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = iq4_place(level[i]);
  put_nibbles(q, out.q);
}

inline void encode_iq4_xs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ4_XS*>(bytes);
  clear(bytes, sizeof(BlockIQ4_XS));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  ScaledBlock fit;
  fit_scaled_block<2>(block, IQ4Levels{}, kIQ4Ladder, {-32.0f, 31.0f, -34.0f, -20.0f}, fit);
  put_half(out.d, fit.d);
  std::uint8_t q[256];
  for (int i = 0; i < 256; ++i) q[i] = iq4_place(fit.level[i]);
  for (int g = 0; g < 8; ++g) {
    const int scale = static_cast<int>(fit.scale[g]) + 32;
    auto& low = out.scales_low[g / 2];
    auto& high = out.scales_high[g / 4];
    low = static_cast<std::uint8_t>(low | (scale & 15) << g % 2 * 4);
    high = static_cast<std::uint8_t>(high | scale >> 4 << g % 4 * 2);
    put_nibbles(q + 32 * g, out.q + 16 * g);
  }
}

// --- MXFP4 ---

// Magnitudes of kMXFP4Values, nearest.
inline Vec16 nearest_mxfp4(const Vec16& magnitude) {
  Vec16 level = zero();
  for (int i = 1; i < 8; ++i) {
    const auto value = static_cast<float>(kMXFP4Values[i]), below = static_cast<float>(kMXFP4Values[i - 1]);
    level = select(less(broadcast(0.5f * (value + below)), magnitude), broadcast(value), level);
  }
  return level;
}

inline Vec16 magnitude(const Vec16& x) {
  return max(x, sub(zero(), x));
}

inline void encode_mxfp4(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockMXFP4*>(bytes);
  clear(bytes, sizeof(BlockMXFP4));
  Plain<32> block;
  if (!prepare(values, importance, 0x1p-126f, block)) return;
  const auto group = group_at<2>(block, 0);
  const Vec16 magnitudes[2] = {magnitude(group.x[0]), magnitude(group.x[1])};
  const int unit_exponent = static_cast<int>(bits_of(block.unit) >> 23) - 127;
  float least = 3e38f;
  alignas(64) float best[32] = {};
  // The largest magnitude, in [1, 2) but for huge ones, is to be about 12 of these powers of two.
  for (int power = -1; power >= -4; --power) {
    const int e = unit_exponent + power + 128;
    if (e < 0 || e > 254) continue;
    const float scale = float_of(static_cast<std::uint32_t>(127 + power) << 23);
    float error = 0.0f;
    Vec16 levels[2];
    for (int v = 0; v < 2; ++v) {
      levels[v] = nearest_mxfp4(mul(magnitudes[v], broadcast(1.0f / scale)));
      const Vec16 miss = sub(magnitudes[v], mul(levels[v], broadcast(scale)));
      error += reduce_add(mul(mul(miss, miss), group.w[v]));
    }
    if (error < least) {
      least = error;
      out.e = static_cast<std::uint8_t>(e);
      for (int v = 0; v < 2; ++v) store(best + 16 * v, levels[v]);
    }
  }
  static const Places places(kMXFP4Values);
  std::uint8_t q[32];
  for (int i = 0; i < 32; ++i) {
    const int level = static_cast<int>(best[i]);
    q[i] = places.of[(block.x[i] < 0.0f ? -level : level) + 128];
  }
  put_nibbles(q, out.q);
}

// --- three levels ---

// The levels -1, 0, 1 and d. For given d a value is 0 up to half of it, so the best levels are found by the threshold;
// given the levels, d is the mean magnitude of the others.
inline Scale fit_ternary(const Plain<256>& block, std::uint8_t* digits) {
  const auto group = group_at<16>(block, 0);
  const auto at = [&](float threshold) {
    Vec16 sum = zero(), weight = zero();
    for (int v = 0; v < 16; ++v) {
      const Vec16 x = magnitude(group.x[v]);
      const Vec16 w = select(less(broadcast(threshold), x), group.w[v], zero());
      sum = add(sum, mul(w, x));
      weight = add(weight, w);
    }
    return Projection{reduce_add(sum), reduce_add(weight)};
  };
  Projection best = at(0.0f);
  constexpr int kSteps = 24;
  float peak = signed_peak(group);
  peak = peak < 0.0f ? -peak : peak;
  for (int i = 1; i < kSteps; ++i) {
    const Projection found = at(peak * static_cast<float>(i) / static_cast<float>(kSteps));
    if (found.gain() > best.gain()) best = found;
  }
  for (int i = 0; i < 6; ++i) {
    const Projection found = at(0.5f * best.scale());
    if (!(found.gain() > best.gain())) break;
    best = found;
  }
  const Scale d = to_scale(best.scale(), block);
  for (int i = 0; i < 256; ++i) {
    digits[i] = static_cast<std::uint8_t>(block.x[i] > 0.5f * d.value ? 2 : block.x[i] < -0.5f * d.value ? 0 : 1);
  }
  return d;
}

// Digits of three, the first highest, as the least fraction of 256 that has them: rounded up, so that a look at the
// digits finds no 2.99 in place of a 3.
inline std::uint8_t put_digits(const std::uint8_t* digits, int step, int count) {
  int number = 0;
  for (int j = 0; j < 5; ++j) number = 3 * number + (j < count ? digits[j * step] : 0);
  return static_cast<std::uint8_t>((number * 256 + 242) / 243);
}

inline void encode_tq1_0(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockTQ1_0*>(bytes);
  clear(bytes, sizeof(BlockTQ1_0));
  Plain<256> block;
  std::uint8_t digits[256];
  for (int i = 0; i < 256; ++i) digits[i] = 1;
  if (prepare(values, importance, kLeastValue, block)) put_half(out.d, fit_ternary(block, digits));
  for (int i = 0; i < 32; ++i) out.q[i] = put_digits(digits + i, 32, 5);
  for (int i = 0; i < 16; ++i) out.q[32 + i] = put_digits(digits + 160 + i, 16, 5);
  for (int i = 0; i < 4; ++i) out.high[i] = put_digits(digits + 240 + i, 4, 4);
}

inline void encode_tq2_0(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockTQ2_0*>(bytes);
  clear(bytes, sizeof(BlockTQ2_0));
  Plain<256> block;
  std::uint8_t digits[256];
  for (int i = 0; i < 256; ++i) digits[i] = 1;
  if (prepare(values, importance, kLeastValue, block)) put_half(out.d, fit_ternary(block, digits));
  put_two_bits(digits, out.q);
}

}  // namespace pronk::PRONK_ISA
