// Norm, activation and residual, for whichever instruction set includes this file after its Vec16.
#pragma once

#include "pronk/layers.hpp"

namespace pronk::PRONK_ISA {

// x / sqrt(mean(x^2) + eps), then times the gain (Zhang and Sennrich 2019, as Llama has it: gain after the division).
inline void rms_norm(const float* x, const float* gain, float* out, std::int64_t rows, std::int64_t width, float eps) {
  const std::int64_t whole = width / 16 * 16;
  const int rest = static_cast<int>(width - whole);
  for (std::int64_t row = 0; row < rows; ++row, x += width, out += width) {
    Vec16 squares = zero();
    for (std::int64_t i = 0; i < whole; i += 16) {
      const Vec16 value = load(x + i);
      squares = fma(value, value, squares);
    }
    if (rest > 0) {
      const Vec16 value = load_partial(x + whole, rest);
      squares = fma(value, value, squares);
    }
    const float mean = reduce_add(squares) / static_cast<float>(width);
    const Vec16 scale = broadcast(1.0f / __builtin_sqrtf(mean + eps));
    for (std::int64_t i = 0; i < whole; i += 16) store(out + i, mul(mul(load(x + i), scale), load(gain + i)));
    if (rest > 0) {
      const Vec16 value = mul(mul(load_partial(x + whole, rest), scale), load_partial(gain + whole, rest));
      store_partial(out + whole, value, rest);
    }
  }
}

// silu(x) = x / (1 + e^-x). For very negative x the divisor is infinite and the result -0, its limit.
inline Vec16 silu(const Vec16& x) {
  return div(x, add(broadcast(1.0f), exp(sub(zero(), x))));
}

inline void silu_mul(float* gate, const float* up, std::int64_t count) {
  const std::int64_t whole = count / 16 * 16;
  for (std::int64_t i = 0; i < whole; i += 16) store(gate + i, mul(silu(load(gate + i)), load(up + i)));
  if (const int rest = static_cast<int>(count - whole); rest > 0) {
    const Vec16 value = mul(silu(load_partial(gate + whole, rest)), load_partial(up + whole, rest));
    store_partial(gate + whole, value, rest);
  }
}

inline void add_in_place(float* x, const float* y, std::int64_t count) {
  const std::int64_t whole = count / 16 * 16;
  for (std::int64_t i = 0; i < whole; i += 16) store(x + i, add(load(x + i), load(y + i)));
  if (const int rest = static_cast<int>(count - whole); rest > 0) {
    store_partial(x + whole, add(load_partial(x + whole, rest), load_partial(y + whole, rest)), rest);
  }
}

}  // namespace pronk::PRONK_ISA
