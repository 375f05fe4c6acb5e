// Encoders of the types with blocks of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
#pragma once

namespace pronk::PRONK_ISA {

// Value i in the low half of byte i, value i + 16 in the high half; of values of five bits the low four.
inline void put_nibbles(const std::uint8_t* q, std::uint8_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
}

inline void put_fifth_bits(const std::uint8_t* q, std::uint8_t* high) {
  for (int i = 0; i < 4; ++i) high[i] = 0;
  for (int i = 0; i < 32; ++i) high[i / 8] = static_cast<std::uint8_t>(high[i / 8] | (q[i] >> 4) << i % 8);
}

// Whole numbers of 0 to 255 in floats, as bytes.
template <int V>
void to_bytes(const Vec16* q, float offset, std::uint8_t* out) {
  float values[16];
  for (int v = 0; v < V; ++v) {
    store(values, add(q[v], broadcast(offset)));
    for (int i = 0; i < 16; ++i) out[16 * v + i] = static_cast<std::uint8_t>(static_cast<int>(values[i]));
  }
}

// x = d * (q - middle).
template <class Block>
void encode_centred(const float* values, const float* importance, float middle, const Ladder& ladder, Block& out,
                    std::uint8_t* q) {
  Plain<32> block;
  Scale d;
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::uint8_t>(middle);
  if (prepare(values, importance, kLeastValue, block)) {
    const auto group = group_at<2>(block, 0);
    const WholeLevels levels{-middle, middle - 1.0f};
    d = to_scale(fit_scale(group, levels, ladder).scale(), block);
    const Vec16 inverse = broadcast(inverse_of(d.value));
    const Vec16 nearest[2] = {levels.nearest(mul(group.x[0], inverse)), levels.nearest(mul(group.x[1], inverse))};
    to_bytes<2>(nearest, middle, q);
    d = to_scale(d.value * stretch(block, d.value * project(group, nearest).xl), block);
  }
  put_half(out.d, d);
}

inline void encode_q4_0(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ4_0*>(bytes);
  std::uint8_t q[32];
  encode_centred(values, importance, 8.0f, {1.12f, 0.7f, 10}, out, q);
  put_nibbles(q, out.q);
}

inline void encode_q5_0(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ5_0*>(bytes);
  std::uint8_t q[32];
  encode_centred(values, importance, 16.0f, {1.06f, 0.82f, 12}, out, q);
  put_nibbles(q, out.q);
  put_fifth_bits(q, out.high);
}

// x = d * q + m.
template <class Block>
void encode_offset(const float* values, const float* importance, float top, const Ladder& cuts, Block& out,
                   std::uint8_t* q) {
  Plain<32> block;
  Scale d, m;
  for (int i = 0; i < 32; ++i) q[i] = 0;
  if (prepare(values, importance, kLeastValue, block)) {
    const auto group = group_at<2>(block, 0);
    const Affine fit = fit_affine(group, top, cuts, false);
    d = to_scale(fit.scale, block);
    m = to_half(fit.offset, block);
    Vec16 levels[2];
    affine_levels(group, d.value, m.value, top, levels);
    // d is rounded now, so m may move; then the levels once more.
    Vec16 rest = zero(), weight = zero();
    for (int v = 0; v < 2; ++v) {
      rest = add(rest, mul(group.w[v], sub(group.x[v], mul(broadcast(d.value), levels[v]))));
      weight = add(weight, group.w[v]);
    }
    m = to_half(reduce_add(rest) / reduce_add(weight), block);
    affine_levels(group, d.value, m.value, top, levels);
    to_bytes<2>(levels, 0.0f, q);
    Vec16 product = zero();
    for (int v = 0; v < 2; ++v) {
      const Vec16 written = add(mul(broadcast(d.value), levels[v]), broadcast(m.value));
      product = add(product, mul(group.w[v], mul(group.x[v], written)));
    }
    const float longer = stretch(block, reduce_add(product));
    d = to_scale(d.value * longer, block);
    m = to_half(m.value * longer, block);
  }
  put_half(out.d, d);
  put_half(out.m, m);
}

inline void encode_q4_1(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ4_1*>(bytes);
  std::uint8_t q[32];
  encode_offset(values, importance, 15.0f, {-0.01f, 0.1f, 5}, out, q);
  put_nibbles(q, out.q);
}

inline void encode_q5_1(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ5_1*>(bytes);
  std::uint8_t q[32];
  encode_offset(values, importance, 31.0f, {-0.01f, 0.05f, 5}, out, q);
  put_nibbles(q, out.q);
  put_fifth_bits(q, out.high);
}

// As everyone writes it, whatever the importance: the largest magnitude over 127, values rounded half away from zero.
inline void encode_q8_0(const float* values, const float*, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ8_0*>(bytes);
  float largest = 0.0f;
  for (int i = 0; i < 32; ++i) {
    const float magnitude = values[i] < 0.0f ? -values[i] : values[i];
    largest = magnitude > largest ? magnitude : largest;
  }
  Plain<32> plain;
  plain.unit = plain.inverse_unit = 1.0f;
  float scale = largest / 127.0f;
  put_half(out.d, to_half(scale, plain));
  scale = scale < 65504.0f ? scale : 65504.0f;
  const float inverse = scale < 1e-37f ? 0.0f : 1.0f / scale;
  for (int i = 0; i < 32; ++i) {
    const float scaled = clamp(values[i] * inverse, -127.0f, 127.0f);
    const int whole = static_cast<int>(scaled);
    out.q[i] = static_cast<std::int8_t>(whole + static_cast<int>(2.0f * (scaled - static_cast<float>(whole))));
  }
}

}  // namespace pronk::PRONK_ISA
