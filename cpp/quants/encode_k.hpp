// Encoders of the K types: groups of values with whole scales, and one or two fp16 scales over those.
#pragma once

namespace pronk::PRONK_ISA {

// The fp16 scale to start from, given each group's own best scale and what it costs to miss that (its curvature): of a
// ladder of scales the one at which the groups' whole scales miss least. The largest group gets `first` to `last`.
struct WholeScales {
  float low, high;
  float first, last;
  int steps = 24;
};

inline float start_scale(const float* scales, const float* curvatures, const WholeScales& whole) {
  const Vec16 scale = load(scales), curvature = load(curvatures);
  const float high = reduce_max(scale), low = reduce_min(scale);
  const float peak = high > -low ? high : low;
  if (peak == 0.0f) return 0.0f;
  float best = 0.0f, least = 3e38f;
  for (int i = 0; i < whole.steps; ++i) {
    const float t = static_cast<float>(i) / static_cast<float>(whole.steps - 1);
    const float d = peak / (whole.first + (whole.last - whole.first) * t);
    const Vec16 nearest = round(clamp(mul(scale, broadcast(1.0f / d)), whole.low, whole.high));
    const Vec16 miss = sub(scale, mul(nearest, broadcast(d)));
    const float cost = reduce_add(mul(mul(miss, miss), curvature));
    if (cost < least) {
      least = cost;
      best = d;
    }
  }
  return best;
}

// --- scales alone: x = d * s * level, s from whole.low to whole.high ---

struct ScaledBlock {
  Scale d;
  float scale[16];  // a group's whole scale
  alignas(64) float level[256];
};

constexpr int kRounds = 3;

// By turns: each group's whole scale and levels given d, among the neighbours of what it has, and d given those.
template <int V, class Levels>
void fit_scaled_block(const Plain<256>& block, const Levels& levels, const Ladder& ladder, const WholeScales& whole,
                      ScaledBlock& out) {
  constexpr int kGroups = 16 / V;
  alignas(64) float scales[16] = {}, curvatures[16] = {};
  for (int g = 0; g < kGroups; ++g) {
    const Projection fit = fit_scale(group_at<V>(block, 16 * V * g), levels, ladder);
    scales[g] = fit.scale();
    curvatures[g] = fit.ll;
  }
  out.d = to_scale(start_scale(scales, curvatures, whole), block);
  for (int g = 0; g < kGroups; ++g) {
    out.scale[g] = clamp(round(clamp(scales[g] * inverse_of(out.d.value), -1000.0f, 1000.0f)), whole.low, whole.high);
  }
  double xl = 0.0;
  for (int turn = 0; turn < kRounds; ++turn) {
    double ll = 0.0;
    xl = 0.0;
    for (int g = 0; g < kGroups; ++g) {
      const auto group = group_at<V>(block, 16 * V * g);
      float least = 3e38f, chosen = out.scale[g];
      Vec16 best[V];
      for (int v = 0; v < V; ++v) best[v] = zero();
      for (float s = out.scale[g] - 1.0f; s <= out.scale[g] + 1.0f; s += 1.0f) {
        if (s < whole.low || s > whole.high) continue;
        const float scale = out.d.value * s;
        const Vec16 inverse = broadcast(inverse_of(scale));
        Vec16 nearest[V];
        for (int v = 0; v < V; ++v) nearest[v] = levels.nearest(mul(group.x[v], inverse));
        const float error = error_of(group, nearest, scale);
        if (error < least) {
          least = error;
          chosen = s;
          for (int v = 0; v < V; ++v) best[v] = nearest[v];
        }
      }
      out.scale[g] = chosen;
      for (int v = 0; v < V; ++v) store(out.level + 16 * (V * g + v), best[v]);
      const Projection sums = project(group, best);
      xl += static_cast<double>(chosen) * static_cast<double>(sums.xl);
      ll += static_cast<double>(chosen) * static_cast<double>(chosen) * static_cast<double>(sums.ll);
    }
    if (turn == kRounds - 1 || !(ll > 0.0)) break;
    const Scale d = to_scale(static_cast<float>(xl / ll), block);
    if (d.half == out.d.half) break;
    out.d = d;
  }
  const float longer = stretch(block, out.d.value * static_cast<float>(xl));
  out.d = to_scale(out.d.value * longer, block);
}

// --- scales and mins: x = d * s * q - dmin * m, s and m from 0 to `whole`, q from 0 to `top` ---

struct AffineBlock {
  Scale d, dmin;
  float scale[16], min[16];
  alignas(64) float q[256];
};

// The sums of which the best d and dmin for given whole numbers follow.
struct NormalEquations {
  double uu = 0.0, um = 0.0, mm = 0.0, xu = 0.0, xm = 0.0;

  template <int V>
  void add_group(const Group<V>& group, const Vec16* q, float scale, float min) {
    Vec16 qq = zero(), q1 = zero(), xq = zero(), w = zero(), x = zero();
    for (int v = 0; v < V; ++v) {
      const Vec16 weighted = mul(group.w[v], q[v]);
      q1 = add(q1, weighted);
      qq = add(qq, mul(weighted, q[v]));
      xq = add(xq, mul(weighted, group.x[v]));
      w = add(w, group.w[v]);
      x = add(x, mul(group.w[v], group.x[v]));
    }
    const double s = static_cast<double>(scale), m = static_cast<double>(min);
    uu += s * s * static_cast<double>(reduce_add(qq));
    um += s * m * static_cast<double>(reduce_add(q1));
    mm += m * m * static_cast<double>(reduce_add(w));
    xu += s * static_cast<double>(reduce_add(xq));
    xm += m * static_cast<double>(reduce_add(x));
  }

  // False when they do not determine positive scales.
  bool solve(float& d, float& dmin) const {
    if (!(uu > 0.0)) return false;
    const double determinant = uu * mm - um * um;
    if (!(determinant > 1e-9 * uu * mm)) {  // no mins, or nothing that tells them from scales
      d = static_cast<float>((xu + static_cast<double>(dmin) * um) / uu);
      return d > 0.0f;
    }
    const double best_d = (xu * mm - xm * um) / determinant, best_dmin = (xu * um - xm * uu) / determinant;
    if (!(best_d > 0.0 && best_dmin > 0.0)) return false;
    d = static_cast<float>(best_d);
    dmin = static_cast<float>(best_dmin);
    return true;
  }
};

template <int V>
float affine_error(const Group<V>& group, const Vec16* q, float scale, float offset) {
  Vec16 sum = zero();
  for (int v = 0; v < V; ++v) {
    const Vec16 miss = sub(sub(group.x[v], broadcast(offset)), mul(broadcast(scale), q[v]));
    sum = add(sum, mul(mul(miss, miss), group.w[v]));
  }
  return reduce_add(sum);
}

// The best whole scale and min of a group among the neighbours of those it has, and its levels.
template <int V>
void improve_group(const Group<V>& group, float d, float dmin, float whole, float top, float& scale, float& min,
                   Vec16* best) {
  float least = 3e38f;
  const float scale0 = scale, min0 = min;
  for (int v = 0; v < V; ++v) best[v] = zero();
  for (float s = scale0 - 1.0f; s <= scale0 + 1.0f; s += 1.0f) {
    for (float m = min0 - 1.0f; m <= min0 + 1.0f; m += 1.0f) {
      if (s < 0.0f || s > whole || m < 0.0f || m > whole) continue;
      Vec16 q[V];
      affine_levels(group, d * s, -dmin * m, top, q);
      const float error = affine_error(group, q, d * s, -dmin * m);
      if (error < least) {
        least = error;
        scale = s;
        min = m;
        for (int v = 0; v < V; ++v) best[v] = q[v];
      }
    }
  }
}

template <int V>
void fit_affine_block(const Plain<256>& block, float top, float whole, const Ladder& cuts, AffineBlock& out) {
  constexpr int kGroups = 16 / V;
  alignas(64) float scales[16] = {}, mins[16] = {}, curvatures[16] = {}, weights[16] = {};
  for (int g = 0; g < kGroups; ++g) {
    const auto group = group_at<V>(block, 16 * V * g);
    const Affine fit = fit_affine(group, top, cuts, true);
    scales[g] = fit.scale;
    mins[g] = -fit.offset;
    curvatures[g] = fit.curvature;
    Vec16 w = group.w[0];
    for (int v = 1; v < V; ++v) w = add(w, group.w[v]);
    weights[g] = reduce_add(w);
  }
  const WholeScales whole_scales{0.0f, whole, whole * 1.1f, whole * 0.6f};
  out.d = to_scale(start_scale(scales, curvatures, whole_scales), block);
  out.dmin = to_scale(start_scale(mins, weights, whole_scales), block);
  for (int g = 0; g < kGroups; ++g) {
    out.scale[g] = round(clamp(scales[g] * inverse_of(out.d.value), 0.0f, whole));
    out.min[g] = round(clamp(mins[g] * inverse_of(out.dmin.value), 0.0f, whole));
  }
  NormalEquations equations;
  for (int turn = 0; turn < kRounds; ++turn) {
    equations = {};
    for (int g = 0; g < kGroups; ++g) {
      const auto group = group_at<V>(block, 16 * V * g);
      Vec16 q[V];
      improve_group(group, out.d.value, out.dmin.value, whole, top, out.scale[g], out.min[g], q);
      for (int v = 0; v < V; ++v) store(out.q + 16 * (V * g + v), q[v]);
      equations.add_group(group, q, out.scale[g], out.min[g]);
    }
    float d = out.d.value, dmin = out.dmin.value;
    if (turn == kRounds - 1 || !equations.solve(d, dmin)) break;
    const Scale new_d = to_scale(d, block), new_dmin = to_scale(dmin, block);
    if (new_d.half == out.d.half && new_dmin.half == out.dmin.half) break;
    out.d = new_d;
    out.dmin = new_dmin;
  }
  const float xy = out.d.value * static_cast<float>(equations.xu) - out.dmin.value * static_cast<float>(equations.xm);
  const float longer = stretch(block, xy);
  out.d = to_scale(out.d.value * longer, block);
  out.dmin = to_scale(out.dmin.value * longer, block);
}

// --- the blocks ---

inline std::uint8_t byte_of(float x) {
  return static_cast<std::uint8_t>(static_cast<int>(x));
}

inline void clear(std::uint8_t* bytes, int count) {
  for (int i = 0; i < count; ++i) bytes[i] = 0;
}

// Two bits of each of 256 values: 32 bytes for 128 of them.
inline void put_two_bits(const std::uint8_t* q, std::uint8_t* out) {
  clear(out, 64);
  for (int i = 0; i < 256; ++i) {
    auto& byte = out[i / 128 * 32 + i % 32];
    byte = static_cast<std::uint8_t>(byte | (q[i] & 3) << i % 128 / 32 * 2);
  }
}

inline void encode_q2_k(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ2_K*>(bytes);
  clear(bytes, sizeof(BlockQ2_K));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  AffineBlock fit;
  fit_affine_block<1>(block, 3.0f, 15.0f, {0.0f, 0.3f, 4}, fit);
  put_half(out.d, fit.d);
  put_half(out.dmin, fit.dmin);
  for (int g = 0; g < 16; ++g) {
    out.scales[g] = static_cast<std::uint8_t>(byte_of(fit.scale[g]) | byte_of(fit.min[g]) << 4);
  }
  std::uint8_t q[256];
  for (int i = 0; i < 256; ++i) q[i] = byte_of(fit.q[i]);
  put_two_bits(q, out.q);
}

inline void encode_q3_k(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ3_K*>(bytes);
  clear(bytes, sizeof(BlockQ3_K));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  ScaledBlock fit;
  fit_scaled_block<1>(block, WholeLevels{-4.0f, 3.0f}, {1.2f, 0.55f, 10}, {-32.0f, 31.0f, -34.0f, -20.0f}, fit);
  put_half(out.d, fit.d);
  for (int g = 0; g < 16; ++g) {
    const int scale = static_cast<int>(fit.scale[g]) + 32;
    auto& low = out.scales[g % 8];
    auto& high = out.scales[8 + g % 4];
    low = static_cast<std::uint8_t>(low | (scale & 15) << g / 8 * 4);
    high = static_cast<std::uint8_t>(high | scale >> 4 << g / 4 * 2);
  }
  std::uint8_t q[256];
  for (int i = 0; i < 256; ++i) {
    q[i] = byte_of(fit.level[i] + 4.0f);
    out.high[i % 32] = static_cast<std::uint8_t>(out.high[i % 32] | (q[i] >> 2) << i / 32);
  }
  put_two_bits(q, out.low);
}

// The 12 bytes of unpack_scale (half.hpp).
inline void put_scales_and_mins(const AffineBlock& fit, std::uint8_t* packed) {
  for (int g = 0; g < 4; ++g) {
    const int scale = byte_of(fit.scale[g]), min = byte_of(fit.min[g]);
    const int scale4 = byte_of(fit.scale[g + 4]), min4 = byte_of(fit.min[g + 4]);
    packed[g] = static_cast<std::uint8_t>(scale | (scale4 >> 4) << 6);
    packed[g + 4] = static_cast<std::uint8_t>(min | (min4 >> 4) << 6);
    packed[g + 8] = static_cast<std::uint8_t>((scale4 & 15) | (min4 & 15) << 4);
  }
}

// Groups 2i and 2i + 1 share 32 bytes; of values of five bits the low four.
inline void put_nibbles_of_pairs(const float* q, std::uint8_t* out) {
  for (int i = 0; i < 128; ++i) {
    const int low = byte_of(q[i / 32 * 64 + i % 32]), high = byte_of(q[i / 32 * 64 + 32 + i % 32]);
    out[i] = static_cast<std::uint8_t>((low & 15) | (high & 15) << 4);
  }
}

inline void encode_q4_k(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ4_K*>(bytes);
  clear(bytes, sizeof(BlockQ4_K));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  AffineBlock fit;
  fit_affine_block<2>(block, 15.0f, 63.0f, {-0.01f, 0.1f, 4}, fit);
  put_half(out.d, fit.d);
  put_half(out.dmin, fit.dmin);
  put_scales_and_mins(fit, out.scales);
  put_nibbles_of_pairs(fit.q, out.q);
}

inline void encode_q5_k(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ5_K*>(bytes);
  clear(bytes, sizeof(BlockQ5_K));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  AffineBlock fit;
  fit_affine_block<2>(block, 31.0f, 63.0f, {-0.01f, 0.05f, 4}, fit);
  put_half(out.d, fit.d);
  put_half(out.dmin, fit.dmin);
  put_scales_and_mins(fit, out.scales);
  put_nibbles_of_pairs(fit.q, out.q);
  for (int i = 0; i < 256; ++i) {
    out.high[i % 32] = static_cast<std::uint8_t>(out.high[i % 32] | (byte_of(fit.q[i]) >> 4) << i / 32);
  }
}

inline void encode_q6_k(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockQ6_K*>(bytes);
  clear(bytes, sizeof(BlockQ6_K));
  Plain<256> block;
  if (!prepare(values, importance, kLeastValue, block)) return;
  ScaledBlock fit;
  fit_scaled_block<1>(block, WholeLevels{-32.0f, 31.0f}, {1.03f, 0.9f, 8}, {-128.0f, 127.0f, -130.0f, -100.0f}, fit);
  put_half(out.d, fit.d);
  for (int g = 0; g < 16; ++g) out.scales[g] = static_cast<std::int8_t>(static_cast<int>(fit.scale[g]));
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, in_half = i % 128, q = byte_of(fit.level[i] + 32.0f);
    auto& low = out.low[64 * half + in_half % 64];
    auto& high = out.high[32 * half + in_half % 32];
    low = static_cast<std::uint8_t>(low | (q & 15) << in_half / 64 * 4);
    high = static_cast<std::uint8_t>(high | q >> 4 << in_half / 32 * 2);
  }
}

}  // namespace pronk::PRONK_ISA
