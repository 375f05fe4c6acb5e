// The passes over a whole vocabulary, for whichever instruction set includes this file after its Vec16.
#pragma once

#include "pronk/sampling.hpp"

namespace pronk::PRONK_ISA {

// Calls body(values, index, lanes) for each vector of the array; lanes past the end hold `fill`.
template <class Body>
inline void each_vector(const float* x, std::int64_t count, float fill, const Body& body) {
  const std::int64_t whole = count / 16 * 16;
  for (std::int64_t i = 0; i < whole; i += 16) body(load(x + i), i, 16);
  if (const int rest = static_cast<int>(count - whole); rest > 0) {
    body(select(first(rest), load_partial(x + whole, rest), broadcast(fill)), whole, rest);
  }
}

inline float maximum(const float* logits, std::int64_t count) {
  const Vec16 infinity = broadcast(__builtin_inff()), nan = broadcast(__builtin_nanf(""));
  Vec16 largest = broadcast(-__builtin_inff()), wrong = zero();
  each_vector(logits, count, -__builtin_inff(), [&](const Vec16& x, std::int64_t, int) {
    wrong = select(less(x, infinity), wrong, nan);
    largest = max(largest, x);
  });
  const float nan_or_zero = reduce_add(wrong);
  return nan_or_zero == 0.0f ? reduce_max(largest) : nan_or_zero;
}

// Sums of 1024 values in float, then in double: a softmax over 128k tokens keeps seven digits.
inline SoftmaxSums softmax_sums(const float* logits, std::int64_t count, float shift, float scale) {
  constexpr std::int64_t kBlock = 1024;
  const Vec16 minus = broadcast(shift), times = broadcast(scale);
  SoftmaxSums total{0.0, 0.0};
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    Vec16 mass = zero(), weighted = zero();
    each_vector(logits + begin, count - begin < kBlock ? count - begin : kBlock, -__builtin_inff(),
                [&](const Vec16& x, std::int64_t, int) {
                  const Vec16 z = mul(sub(x, minus), times), e = exp(z);
                  mass = add(mass, e);
                  // Where e is 0, z may be minus infinity, and 0 * infinity is not the 0 that belongs here.
                  weighted = add(weighted, select(less(zero(), e), mul(e, z), zero()));
                });
    total.mass += static_cast<double>(reduce_add(mass));
    total.weighted += static_cast<double>(reduce_add(weighted));
  }
  return total;
}

inline void exponentials(const float* logits, std::int64_t count, float shift, float scale, float* out) {
  const Vec16 minus = broadcast(shift), times = broadcast(scale);
  each_vector(logits, count, 0.0f, [&](const Vec16& x, std::int64_t i, int lanes) {
    const Vec16 e = exp(mul(sub(x, minus), times));
    if (lanes == 16) {
      store(out + i, e);
    } else {
      store_partial(out + i, e, lanes);
    }
  });
}

inline std::int64_t at_least(const float* logits, std::int64_t count, float threshold, std::int32_t* indices,
                             std::int64_t capacity) {
  const Vec16 limit = broadcast(threshold);
  std::int64_t found = 0;
  each_vector(logits, count, 0.0f, [&](const Vec16& x, std::int64_t i, int lanes) {
    std::uint32_t hits = ~bits(less(x, limit)) & ((1u << lanes) - 1u);
    for (; hits != 0; hits &= hits - 1, ++found) {
      if (found < capacity) indices[found] = static_cast<std::int32_t>(i) + __builtin_ctz(hits);
    }
  });
  return found;
}

inline constexpr SamplingKernels sampling_kernels() {
  return {maximum, softmax_sums, exponentials, at_least};
}

}  // namespace pronk::PRONK_ISA
