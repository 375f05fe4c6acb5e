// Functions of sixteen floats that are written once, over the operations that each instruction set provides.
#pragma once

namespace pronk::PRONK_ISA {

// e^x within 1 to 2 units in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial of degree 6 (fitted
// for the least relative error, 3e-9), then 2^n. Results below the smallest normal number are exactly 0 (so e^-inf is
// too, and softmax never meets slow denormals); above the largest they are infinite; NaN stays NaN.
inline Vec16 exp(const Vec16& x) {
  const Vec16 lowest = broadcast(-87.33654f), highest = broadcast(89.0f);
  const Vec16 rounding = broadcast(12582912.0f);       // 1.5 * 2^23: adding it rounds to a whole number
  const Vec16 clamped = min(highest, max(lowest, x));  // in this order a NaN passes through
  const Vec16 n = sub(fma(clamped, broadcast(0x1.715476p+0f), rounding), rounding);
  Vec16 r = fma(n, broadcast(-0x1.62e43p-1f), clamped);  // ln 2 in two parts: the rest of it is below
  r = fma(n, broadcast(0x1.05c61p-29f), r);
  Vec16 p = broadcast(0x1.6a2256p-10f);
  p = fma(p, r, broadcast(0x1.123b02p-7f));
  p = fma(p, r, broadcast(0x1.5558f8p-5f));
  p = fma(p, r, broadcast(0x1.55549p-3f));
  p = fma(p, r, broadcast(0x1.fffffcp-2f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return select(less(x, lowest), zero(), scale_by_power(p, n));
}

}  // namespace pronk::PRONK_ISA
