// What every encoder is built of: a block's values and weights in plain form, scales as a file holds them, and the
// search for one group's scale.
//
// Encoders are written over Vec16, so that every instruction set writes the same bytes. Nothing of the standard library
// that is more than a type is used here, as in all files that are compiled once for each instruction set; and no fma:
// in plain C++ it would be a call of the C library.
#pragma once

#include "quants/encoders.hpp"

namespace pronk::PRONK_ISA {

// --- a block ---

// x is the values over `unit`, a power of two, and its largest magnitude is in [1, 2): so no product of a search can
// overflow or vanish. Weights are importances over their maximum.
template <int kValues>
struct Plain {
  alignas(64) float x[kValues];
  alignas(64) float w[kValues];
  float unit, inverse_unit;
};

// A weight of nothing would leave its value to chance.
constexpr float kLeastWeight = 1e-5f;

inline std::uint32_t bits_of(float x) {
  std::uint32_t word;
  __builtin_memcpy(&word, &x, 4);
  return word;
}

inline float float_of(std::uint32_t word) {
  float x;
  __builtin_memcpy(&x, &word, 4);
  return x;
}

// False for a block whose values are all below `least`: nothing that a scale could say.
template <int kValues>
bool prepare(const float* values, const float* importance, float least, Plain<kValues>& out) {
  float largest = 0.0f, heaviest = 0.0f;
  for (int i = 0; i < kValues; ++i) {
    const float magnitude = values[i] < 0.0f ? -values[i] : values[i];
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!(largest >= least)) return false;
  std::uint32_t exponent = bits_of(largest) >> 23;
  exponent = exponent > 252 ? 252 : exponent;  // or the unit's inverse would not be a normal number
  out.unit = float_of(exponent << 23);
  out.inverse_unit = float_of((254 - exponent) << 23);
  for (int i = 0; i < kValues; ++i) out.x[i] = values[i] * out.inverse_unit;
  if (importance != nullptr) {
    for (int i = 0; i < kValues; ++i) heaviest = importance[i] > heaviest ? importance[i] : heaviest;
  }
  if (heaviest < 1e-30f) {
    for (int i = 0; i < kValues; ++i) out.w[i] = 1.0f;
    return true;
  }
  const float inverse = 1.0f / heaviest;
  for (int i = 0; i < kValues; ++i) {
    const float weight = importance[i] * inverse;
    out.w[i] = weight > kLeastWeight ? weight : kLeastWeight;
  }
  return true;
}

// Below this, no scale of fp16 times the least level of any type comes near a value.
constexpr float kLeastValue = 0x1p-29f;

// --- scales ---

// An fp16 number: its bits, and its value in the block's unit.
struct Scale {
  std::uint16_t half = 0;
  float value = 0.0f;
};

// To nearest, ties to even; too large ones become the largest finite number.
template <int kValues>
Scale to_half(float number, const Plain<kValues>& block) {
  const float real = number * block.unit;
  const std::uint32_t sign = bits_of(real) >> 16 & 0x8000u;
  float magnitude = real < 0.0f ? -real : real;
  magnitude = magnitude < 65504.0f ? magnitude : 65504.0f;
  const std::uint32_t word = bits_of(magnitude);
  std::uint32_t half;
  if (magnitude < 0x1p-14f) {
    half = bits_of(magnitude + 0.5f) - 0x3f000000u;  // the adder rounds at a subnormal half's last bit
  } else {
    half = (word - 0x38000000u + 0xfffu + (word >> 13 & 1u)) >> 13;
  }
  const float value = float_of(half << 13) * 0x1p112f * block.inverse_unit;
  return {static_cast<std::uint16_t>(half | sign), sign != 0 ? -value : value};
}

// As a scale, a number other than zero stays one: zero would lose the block.
template <int kValues>
Scale to_scale(float number, const Plain<kValues>& block) {
  const Scale scale = to_half(number, block);
  if ((scale.half & 0x7fffu) != 0 || number == 0.0f) return scale;
  return {static_cast<std::uint16_t>(scale.half | 1u),
          number < 0.0f ? -0x1p-24f * block.inverse_unit : 0x1p-24f * block.inverse_unit};
}

inline void put_half(Half& out, std::uint16_t half) {
  out.bytes[0] = static_cast<std::uint8_t>(half & 255);
  out.bytes[1] = static_cast<std::uint8_t>(half >> 8);
}

inline void put_half(Half& out, Scale scale) {
  put_half(out, scale.half);
}

// --- vectors ---

// 16 * V values.
template <int V>
struct Group {
  Vec16 x[V], w[V];
};

template <int V, int kValues>
Group<V> group_at(const Plain<kValues>& block, int first) {
  Group<V> group;
  for (int v = 0; v < V; ++v) {
    group.x[v] = load(block.x + first + 16 * v);
    group.w[v] = load(block.w + first + 16 * v);
  }
  return group;
}

inline Vec16 clamp(const Vec16& x, float low, float high) {
  return min(max(x, broadcast(low)), broadcast(high));
}

inline float clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

// For magnitudes below 2^22: 1.5 * 2^23 added leaves no room for a fraction. Ties to even.
inline Vec16 round(const Vec16& x) {
  const Vec16 shift = broadcast(12582912.0f);
  return sub(add(x, shift), shift);
}

inline float round(float x) {
  return (x + 12582912.0f) - 12582912.0f;
}

inline float reduce_min(const Vec16& x) {
  return -reduce_max(sub(zero(), x));
}

inline float inverse_of(float x) {
  return x == 0.0f ? 0.0f : 1.0f / x;
}

// --- levels: what a quantized value may be, before its scale ---

struct WholeLevels {
  float low, high;
  Vec16 nearest(const Vec16& x) const { return round(clamp(x, low, high)); }
};

// kIQ4Values. A chain of comparisons with the points halfway between them.
struct IQ4Levels {
  float low = -127.0f, high = 113.0f;
  Vec16 nearest(const Vec16& x) const {
    Vec16 level = broadcast(static_cast<float>(kIQ4Values[0]));
    for (int i = 1; i < 16; ++i) {
      const auto value = static_cast<float>(kIQ4Values[i]), below = static_cast<float>(kIQ4Values[i - 1]);
      level = select(less(broadcast(0.5f * (value + below)), x), broadcast(value), level);
    }
    return level;
  }
};

// --- a group's scale: x is about scale * level ---

// Sums over a group, for levels l: of w * x * l and of w * l * l. The best scale for these levels is xl / ll, and it
// takes xl^2 / ll off the squared error.
struct Projection {
  float xl = 0.0f, ll = 0.0f;
  float scale() const { return ll > 0.0f ? xl / ll : 0.0f; }
  float gain() const { return ll > 0.0f ? xl * xl / ll : 0.0f; }
};

template <int V>
Projection project(const Group<V>& group, const Vec16* levels) {
  Vec16 xl = zero(), ll = zero();
  for (int v = 0; v < V; ++v) {
    const Vec16 weighted = mul(group.w[v], levels[v]);
    xl = add(xl, mul(weighted, group.x[v]));
    ll = add(ll, mul(weighted, levels[v]));
  }
  return {reduce_add(xl), reduce_add(ll)};
}

template <int V, class Levels>
Projection project_at(const Group<V>& group, const Levels& levels, float scale) {
  const Vec16 inverse = broadcast(inverse_of(scale));
  Vec16 nearest[V];
  for (int v = 0; v < V; ++v) nearest[v] = levels.nearest(mul(group.x[v], inverse));
  return project(group, nearest);
}

template <int V>
float signed_peak(const Group<V>& group) {
  Vec16 highest = group.x[0], lowest = group.x[0];
  for (int v = 1; v < V; ++v) {
    highest = max(highest, group.x[v]);
    lowest = min(lowest, group.x[v]);
  }
  const float high = reduce_max(highest), low = reduce_min(lowest);
  return high > -low ? high : low;
}

// Where a search starts: the value of largest magnitude is laid at `first` to `last` times the outermost level.
struct Ladder {
  float first, last;
  int steps;
  float at(int i) const { return first + (last - first) * static_cast<float>(i) / static_cast<float>(steps - 1); }
};

// The scale of least error: from each start, on both sides, the levels nearest at it and the best scale for those; the
// best of these is then followed until nothing changes.
template <int V, class Levels>
Projection fit_scale(const Group<V>& group, const Levels& levels, const Ladder& ladder) {
  Projection best;
  const float peak = signed_peak(group);
  if (peak == 0.0f) return best;
  for (int i = 0; i < ladder.steps; ++i) {
    const Projection below = project_at(group, levels, peak / (levels.low * ladder.at(i)));
    const Projection above = project_at(group, levels, peak / (levels.high * ladder.at(i)));
    if (below.gain() > best.gain()) best = below;
    if (above.gain() > best.gain()) best = above;
  }
  for (int i = 0; i < 6; ++i) {
    const Projection found = project_at(group, levels, best.scale());
    if (!(found.gain() > best.gain())) break;
    best = found;
  }
  return best;
}

template <int V>
float error_of(const Group<V>& group, const Vec16* levels, float scale) {
  Vec16 sum = zero();
  for (int v = 0; v < V; ++v) {
    const Vec16 miss = sub(group.x[v], mul(broadcast(scale), levels[v]));
    sum = add(sum, mul(mul(miss, miss), group.w[v]));
  }
  return reduce_add(sum);
}

// --- no shrinking ---

// The least squared error shrinks: there sum(w * x * y) is sum(w * y * y) for what is written, y, and so less than
// sum(w * x * x) by the error. Rounding errors of many weights average out in a product; this does not, and is the same
// in every matrix of every layer. So each search ends with what y is to be multiplied with for sum(w * x * y) to be
// sum(w * x * x). The levels of least error stay the best: their angle to x is the least.
template <int kValues>
float stretch(const Plain<kValues>& block, float xy) {
  Vec16 sum = zero();
  for (int i = 0; i < kValues; i += 16) {
    const Vec16 x = load(block.x + i);
    sum = add(sum, mul(mul(x, x), load(block.w + i)));
  }
  const float xx = reduce_add(sum);
  if (!(xy > 0.0f)) return 1.0f;
  return xx < 2.0f * xy ? xx / xy : 2.0f;  // a block that is mostly lost is not worth more
}

// --- a group's scale and offset: x is about scale * q + offset, with q from 0 to `top` ---

struct Affine {
  float scale = 0.0f, offset = 0.0f;
  float error = 0.0f;
  float curvature = 0.0f;  // the sum of w * q * q: what an error of the scale costs
};

template <int V>
struct AffineSums {
  float w = 0.0f, x = 0.0f, xx = 0.0f;  // over the group: w, w * x, w * x * x
  Group<V> group;                       // x less `shift`, which keeps large offsets from drowning small differences
  float shift = 0.0f;
};

template <int V>
Affine fit_affine_levels(const AffineSums<V>& sums, const Vec16* q, bool offset_at_most_zero) {
  Vec16 lq = zero(), lqq = zero(), lxq = zero();
  for (int v = 0; v < V; ++v) {
    const Vec16 weighted = mul(sums.group.w[v], q[v]);
    lq = add(lq, weighted);
    lqq = add(lqq, mul(weighted, q[v]));
    lxq = add(lxq, mul(weighted, sums.group.x[v]));
  }
  const float sq = reduce_add(lq), sqq = reduce_add(lqq), sxq = reduce_add(lxq);
  const float determinant = sums.w * sqq - sq * sq;
  float scale = 0.0f, offset = sums.x / sums.w;
  if (determinant > 1e-6f * sums.w * sqq) {
    scale = (sums.w * sxq - sums.x * sq) / determinant;
    offset = (sqq * sums.x - sq * sxq) / determinant;
  }
  if (offset_at_most_zero && offset + sums.shift > 0.0f) {
    offset = -sums.shift;
    scale = sqq > 0.0f ? (sxq - offset * sq) / sqq : 0.0f;
  }
  const float error = sums.xx - 2.0f * scale * sxq - 2.0f * offset * sums.x + scale * scale * sqq +
                      2.0f * scale * offset * sq + offset * offset * sums.w;
  return {scale, offset, error, sqq};
}

template <int V>
void affine_levels(const Group<V>& group, float scale, float offset, float top, Vec16* q) {
  const Vec16 inverse = broadcast(inverse_of(scale)), shift = broadcast(offset);
  for (int v = 0; v < V; ++v) q[v] = round(clamp(mul(sub(group.x[v], shift), inverse), 0.0f, top));
}

// From each start the levels, and the best scale and offset for those; the best of these is then followed. A start cuts
// ladder.first to ladder.last of the range off at either end.
template <int V>
Affine fit_affine(const Group<V>& group, float top, const Ladder& cuts, bool offset_at_most_zero) {
  AffineSums<V> sums;
  Vec16 highest = group.x[0], lowest = group.x[0];
  for (int v = 1; v < V; ++v) {
    highest = max(highest, group.x[v]);
    lowest = min(lowest, group.x[v]);
  }
  float low = reduce_min(lowest);
  const float high = reduce_max(highest);
  if (offset_at_most_zero && low > 0.0f) low = 0.0f;
  sums.shift = low;
  Vec16 w = zero(), x = zero(), xx = zero();
  for (int v = 0; v < V; ++v) {
    sums.group.w[v] = group.w[v];
    sums.group.x[v] = sub(group.x[v], broadcast(low));
    const Vec16 weighted = mul(group.w[v], sums.group.x[v]);
    w = add(w, group.w[v]);
    x = add(x, weighted);
    xx = add(xx, mul(weighted, sums.group.x[v]));
  }
  sums.w = reduce_add(w);
  sums.x = reduce_add(x);
  sums.xx = reduce_add(xx);

  const float range = high - low;
  if (!(range > 0.0f)) return {0.0f, low, 0.0f, 0.0f};
  Affine best;
  best.error = 1e30f;
  Vec16 q[V];
  for (int i = 0; i < cuts.steps; ++i) {
    for (int j = 0; j < cuts.steps; ++j) {
      const float from = range * cuts.at(i), to = range * (1.0f - cuts.at(j));
      affine_levels(sums.group, (to - from) / top, from, top, q);
      const Affine found = fit_affine_levels(sums, q, offset_at_most_zero);
      if (found.error < best.error && found.scale > 0.0f) best = found;
    }
  }
  for (int i = 0; i < 6; ++i) {
    affine_levels(sums.group, best.scale, best.offset, top, q);
    const Affine found = fit_affine_levels(sums, q, offset_at_most_zero);
    if (!(found.error < best.error && found.scale > 0.0f)) break;
    best = found;
  }
  best.offset += sums.shift;
  return best;
}

}  // namespace pronk::PRONK_ISA
