// From one row of logits to one token, without sorting the vocabulary.
#pragma once

#include <cstdint>

namespace pronk {

// Sums over a softmax that is not yet divided: mass = sum of e, weighted = sum of e * z, with z = (x - shift) * scale
// and e = exp(z).
struct SoftmaxSums {
  double mass, weighted;
};

// What each instruction set provides: the passes over the whole vocabulary.
struct SamplingKernels {
  // The largest logit, or NaN where any is NaN or +infinity.
  float (*maximum)(const float* logits, std::int64_t count);
  SoftmaxSums (*softmax_sums)(const float* logits, std::int64_t count, float shift, float scale);
  // out[i] = e^((logits[i] - shift) * scale)
  void (*exponentials)(const float* logits, std::int64_t count, float shift, float scale, float* out);
  // The indices with logits[i] >= threshold in increasing order; at most `capacity` are written. Returns how many there
  // are.
  std::int64_t (*at_least)(const float* logits, std::int64_t count, float threshold, std::int32_t* indices,
                           std::int64_t capacity);
};

// One request's wishes. The defaults switch each of them off.
struct SamplingArgs {
  float temperature = 1.0f;  // 0: the largest logit, the lowest id on ties
  std::int64_t top_k = 0;
  float top_p = 1.0f, min_p = 0.0f, typical_p = 1.0f;
  bool temperature_first = false;  // Meta's and Hugging Face's order; otherwise llama.cpp's

  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  const std::int32_t* seen_ids = nullptr;     // (seen), each once: prompt and answer
  const std::int32_t* seen_counts = nullptr;  // (seen) times in the answer; presence and frequency ignore the prompt
  std::int64_t seen = 0;

  const std::int32_t* bias_ids = nullptr;  // (biases)
  const float* bias_values = nullptr;
  std::int64_t biases = 0;

  const std::uint32_t* allowed = nullptr;  // bit (i % 32) of word (i / 32): token i may be chosen
  double uniform = 0.0;                    // the random number, in [0, 1)
};

constexpr std::int32_t kNanLogits = -1;    // a logit is NaN or +infinity
constexpr std::int32_t kNothingLeft = -2;  // every token is masked or at minus infinity

// The token, or one of the two codes above. All ids must be in range.
std::int32_t sample(const float* logits, std::int64_t count, const SamplingArgs& args);

// log softmax at `ids`. False where a logit is NaN or +infinity, or all are -infinity.
bool log_probabilities(const float* logits, std::int64_t count, const std::int32_t* ids, std::int64_t wanted,
                       float* out);

// The k (at most count) largest, largest first, the lower id first on ties.
bool top_log_probabilities(const float* logits, std::int64_t count, std::int64_t k, std::int32_t* ids, float* out);

// A number in [0, 1) with 53 bits that depends on nothing but its arguments.
double uniform(std::uint64_t seed, std::uint64_t position);

}  // namespace pronk
