// From one row of logits to one token, without sorting the vocabulary.
#pragma once

#include <cstdint>
#include <vector>

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

// What may be done to a row of logits, in any order.
enum class SamplingStep : std::int32_t {
  kPenalties,
  kDry,
  kTopNSigma,
  kTopK,
  kTypical,
  kTopP,
  kMinP,
  kXtc,
  kTemperature,
  kMirostat,
};
constexpr std::int32_t kSamplingSteps = 10;

// "Don't repeat yourself" (p-e-w, text-generation-webui 2024): a token that would go on with a sequence of the history
// for at least `allowed_length` tokens loses multiplier * base^(length - allowed_length).
struct DryArgs {
  float multiplier = 0.0f, base = 1.75f;
  std::int64_t allowed_length = 2;
  const std::int32_t* history = nullptr;  // (length) prompt and answer, or the end of them
  std::int64_t length = 0;
  // Sequences do not reach across a breaker: a token of `heads` (rising, one for each breaker) followed by its tail,
  // tails[tail_starts[i]] to tails[tail_starts[i + 1]], which may be empty.
  const std::int32_t* heads = nullptr;        // (breakers)
  const std::int32_t* tail_starts = nullptr;  // (breakers + 1)
  const std::int32_t* tails = nullptr;
  std::int64_t breakers = 0;
};

// One request's wishes. The defaults switch each of them off.
struct SamplingArgs {
  const SamplingStep* steps = nullptr;  // (step_count) in this order; what is off is passed over
  std::int64_t step_count = 0;

  float temperature = 1.0f;  // 0: the largest logit, the lowest id on ties, whatever the filters
  // With a range: from temperature - range to temperature + range, by the entropy (0 to 1) to the power of exponent.
  float dynatemp_range = 0.0f, dynatemp_exponent = 1.0f;
  std::int64_t top_k = 0;
  float top_p = 1.0f, min_p = 0.0f, typical_p = 1.0f;
  bool top_p_inclusive = false;  // a token before which the mass is just top_p stays, as Meta's code has it
  float top_n_sigma = 0.0f;
  float xtc_probability = 0.0f, xtc_threshold = 0.1f;
  double xtc_uniform = 0.0;  // the coin, in [0, 1)
  float mirostat_mu = 0.0f;  // the most surprise, in bits, that a token may have; at least one token stays
  DryArgs dry;

  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  const std::int32_t* seen_ids = nullptr;     // (seen), each once: prompt and answer
  const std::int32_t* seen_counts = nullptr;  // (seen) times in the answer; presence and frequency ignore the prompt
  std::int64_t seen = 0;

  // Before all steps: the bias, then the mask.
  const std::int32_t* bias_ids = nullptr;  // (biases)
  const float* bias_values = nullptr;
  std::int64_t biases = 0;

  const std::uint32_t* allowed = nullptr;  // bit (i % 32) of word (i / 32): token i may be chosen
  double uniform = 0.0;                    // the random number, in [0, 1)
};

constexpr std::int32_t kNanLogits = -1;    // a logit is NaN or +infinity
constexpr std::int32_t kNothingLeft = -2;  // every token is masked or at minus infinity

// The token, or one of the two codes above. All ids must be in range. `surprise`, unless null, is set to the token's
// -log2(probability) among those that were left to draw from.
std::int32_t sample(const float* logits, std::int64_t count, const SamplingArgs& args, double* surprise = nullptr);

// For each token that would go on with a sequence of the history: the length of the longest one that it would repeat.
struct Repeat {
  std::int32_t id;
  std::int64_t length;
};
// Each token once, by id; those of at least `allowed_length`, none that is a breaker by itself.
void find_repeats(const DryArgs& dry, std::vector<Repeat>& repeats);

// log softmax at `ids`. False where a logit is NaN or +infinity, or all are -infinity.
bool log_probabilities(const float* logits, std::int64_t count, const std::int32_t* ids, std::int64_t wanted,
                       float* out);

// The k (at most count) largest, largest first, the lower id first on ties.
bool top_log_probabilities(const float* logits, std::int64_t count, std::int64_t k, std::int32_t* ids, float* out);

// A number in [0, 1) with 53 bits that depends on nothing but its arguments. `purpose` tells numbers of one position
// apart.
double uniform(std::uint64_t seed, std::uint64_t position, std::uint64_t purpose = 0);

}  // namespace pronk
