// One row of logits -> one token: the steps of a chain of samplers, each seeing the distribution that the one before it
// left (`sampling_filters.hpp`), then the draw. The random number picks along the kept tokens in the order of their
// ids; so no order by probability is ever needed, and the result is exact.
#include "pronk/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "kernels/sampling_filters.hpp"
#include "pronk/kernels.hpp"

namespace pronk {

namespace {

// The first index at which the running sum of weights passes `target`; the last one that weighs anything if none does.
std::int64_t pick(const float* weights, std::int64_t count, double target) {
  double sum = 0.0;
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    sum += static_cast<double>(weights[i]);
    if (weights[i] > 0.0f) last = i;
    if (sum > target) return i;
  }
  return last;
}

struct Drawn {
  std::int32_t id;
  double probability;
};

Drawn draw_kept(Row& row, float scale, double uniform) {
  const auto count = static_cast<std::int64_t>(row.kept.size());
  row.gathered.resize(row.kept.size());
  row.weights.resize(row.kept.size());
  float largest = kMinusInfinity;
  for (std::size_t i = 0; i < row.kept.size(); ++i) {
    row.gathered[i] = row.kept[i].logit;
    largest = std::max(largest, row.kept[i].logit);
  }
  kernels().sampling.exponentials(row.gathered.data(), count, largest, scale, row.weights.data());
  double mass = 0.0;
  for (const float weight : row.weights) mass += static_cast<double>(weight);
  const auto place = static_cast<std::size_t>(pick(row.weights.data(), count, uniform * mass));
  return {row.kept[place].id, static_cast<double>(row.weights[place]) / mass};
}

// From the whole softmax: the block in which the random number falls, then the token in the block.
Drawn draw_any(Row& row, float scale, double uniform) {
  constexpr std::int64_t kBlock = 4096;
  const SamplingKernels& kernel = kernels().sampling;
  std::vector<double> masses;
  double mass = 0.0;
  for (std::int64_t i = 0; i < row.count; i += kBlock) {
    masses.push_back(kernel.softmax_sums(row.logits + i, std::min(kBlock, row.count - i), row.largest, scale).mass);
    mass += masses.back();
  }
  const double target = uniform * mass;
  double before = 0.0;
  std::size_t block = 0;
  for (std::size_t i = 0; i < masses.size(); ++i) {
    if (masses[i] > 0.0) block = i;
    if (before + masses[i] > target) break;
    before += masses[i];
  }
  const auto begin = static_cast<std::int64_t>(block) * kBlock, count = std::min(kBlock, row.count - begin);
  row.weights.resize(static_cast<std::size_t>(count));
  kernel.exponentials(row.logits + begin, count, row.largest, scale, row.weights.data());
  const std::int64_t place = pick(row.weights.data(), count, target - before);
  return {static_cast<std::int32_t>(begin + place), static_cast<double>(row.weights[place]) / mass};
}

// Changes the logits of some tokens: change(logit, i) for the i-th of `ids`. Of a narrow row, those that it still has.
template <class Id, class Change>
void change_each(Row& row, std::int64_t count, const Id& id, const Change& change) {
  if (!row.narrow) {
    float* logits = own(row);
    for (std::int64_t i = 0; i < count; ++i) logits[id(i)] = change(logits[id(i)], i);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const auto found = std::lower_bound(row.kept.begin(), row.kept.end(), id(i),
                                        [](const Candidate& c, std::int32_t wanted) { return c.id < wanted; });
    if (found != row.kept.end() && found->id == id(i)) found->logit = change(found->logit, i);
  }
}

// After changes of logits: the largest one, and a narrow row's weights and ranks. Minus infinity drops a token.
void refresh(Row& row) {
  const SamplingKernels& kernel = kernels().sampling;
  if (!row.narrow) {
    row.largest = kernel.maximum(row.logits, row.count);
    return;
  }
  row.kept.erase(
      std::remove_if(row.kept.begin(), row.kept.end(), [](const Candidate& c) { return c.logit == kMinusInfinity; }),
      row.kept.end());
  const std::size_t n = row.kept.size();
  row.gathered.resize(n);
  row.weights.resize(n);
  for (std::size_t i = 0; i < n; ++i) row.gathered[i] = row.kept[i].logit;
  row.largest = kernel.maximum(row.gathered.data(), static_cast<std::int64_t>(n));
  kernel.exponentials(row.gathered.data(), static_cast<std::int64_t>(n), row.largest, row.scale, row.weights.data());
  for (std::size_t i = 0; i < n; ++i) {
    row.kept[i].key = static_cast<double>(row.kept[i].logit);
    row.kept[i].weight = row.weights[i];
  }
}

// Penalties are measured in the logits as they are now: after a temperature, divided by it.
void settle_scale(Row& row) {
  if (row.scale == 1.0f) return;
  const float scale = row.scale;
  row.scale = 1.0f;
  if (row.narrow) {
    for (Candidate& c : row.kept) c.logit *= scale;
  } else {
    float* logits = own(row);
    for (std::int64_t i = 0; i < row.count; ++i) logits[i] *= scale;
  }
  refresh(row);
}

// Bias and mask come before all steps.
void adjust(Row& row, const SamplingArgs& args) {
  if (args.biases == 0 && args.allowed == nullptr) return;
  float* logits = own(row);
  for (std::int64_t i = 0; i < args.biases; ++i) logits[args.bias_ids[i]] += args.bias_values[i];
  for (std::int64_t i = 0; args.allowed != nullptr && i < row.count; i += 32) {
    const std::uint32_t word = args.allowed[i / 32];
    if (word == 0xffffffffu) continue;
    for (std::int64_t j = i; j < std::min(i + 32, row.count); ++j) {
      if ((word >> (j - i) & 1u) == 0) logits[j] = kMinusInfinity;
    }
  }
  refresh(row);
}

void penalise(Row& row, const SamplingArgs& args) {
  if (args.seen == 0 ||
      (args.repetition_penalty == 1.0f && args.presence_penalty == 0.0f && args.frequency_penalty == 0.0f)) {
    return;
  }
  settle_scale(row);
  const auto id = [&](std::int64_t i) { return args.seen_ids[i]; };
  change_each(row, args.seen, id, [&](float logit, std::int64_t i) {
    // Keskar et al. 2019: towards less probable, whichever the sign.
    logit = logit > 0.0f ? logit / args.repetition_penalty : logit * args.repetition_penalty;
    const std::int32_t times = args.seen_counts[i];
    return times > 0 ? logit - (static_cast<float>(times) * args.frequency_penalty + args.presence_penalty) : logit;
  });
  refresh(row);
}

void penalise_repeats(Row& row, const DryArgs& dry) {
  if (dry.multiplier == 0.0f || dry.base < 1.0f) return;
  thread_local std::vector<Repeat> repeats;
  find_repeats(dry, repeats);
  if (repeats.empty()) return;
  settle_scale(row);
  // Past this power a float overflows.
  const double log_base = std::log(static_cast<double>(dry.base));
  const double most = log_base > 1e-6 ? 88.7228391 / log_base : std::numeric_limits<double>::infinity();
  const auto id = [&](std::int64_t i) { return repeats[static_cast<std::size_t>(i)].id; };
  change_each(row, static_cast<std::int64_t>(repeats.size()), id, [&](float logit, std::int64_t i) {
    const auto longer = static_cast<double>(repeats[static_cast<std::size_t>(i)].length - dry.allowed_length);
    const double penalty = static_cast<double>(dry.multiplier) * std::exp(std::min(longer, most) * log_base);
    return static_cast<float>(static_cast<double>(logit) - penalty);
  });
  refresh(row);
}

void divide_by_temperature(Row& row, const SamplingArgs& args) {
  double temperature = static_cast<double>(args.temperature);
  if (args.dynatemp_range > 0.0f) {
    double entropy, count;
    if (row.narrow) {
      entropy = entropy_of(row.kept);
      count = static_cast<double>(row.kept.size());
    } else {
      const SamplingKernels& kernel = kernels().sampling;
      const SoftmaxSums sums = kernel.softmax_sums(row.logits, row.count, row.largest, row.scale);
      entropy = std::log(sums.mass) - sums.weighted / sums.mass;
      count = static_cast<double>(kernel.at_least(row.logits, row.count, kLowest, row.ids.data(), 0));
    }
    if (count <= 1.0) return;
    const double range = static_cast<double>(args.dynatemp_range), low = std::max(0.0, temperature - range);
    const double share = std::clamp(entropy / std::log(count), 0.0, 1.0);
    temperature = low + (temperature + range - low) * std::pow(share, static_cast<double>(args.dynatemp_exponent));
  }
  const auto scale = static_cast<float>(static_cast<double>(row.scale) / temperature);
  if (!std::isfinite(scale)) {
    if (!row.narrow) keep_at_least(row, row.largest);
    keep_best(row, 1);
    return;
  }
  row.scale = scale;
  if (row.narrow) refresh(row);
}

void take(Row& row, SamplingStep step, const SamplingArgs& args) {
  switch (step) {
    case SamplingStep::kPenalties:
      return penalise(row, args);
    case SamplingStep::kDry:
      return penalise_repeats(row, args.dry);
    case SamplingStep::kTopNSigma:
      if (args.top_n_sigma > 0.0f) keep_top_n_sigma(row, static_cast<double>(args.top_n_sigma));
      return;
    case SamplingStep::kTopK:
      if (args.top_k <= 0 || args.top_k >= row.count) return;
      return row.narrow ? keep_best(row, args.top_k) : start_with_best(row, args.top_k);
    case SamplingStep::kTypical:
      if (args.typical_p >= 1.0f) return;
      if (!row.narrow) keep_at_least(row, kLowest);
      return keep_typical(row, static_cast<double>(args.typical_p));
    case SamplingStep::kTopP: {
      if (args.top_p >= 1.0f) return;
      const double share = static_cast<double>(args.top_p);
      const double mass = row.narrow ? mass_of(row.kept) : start_with_mass(row, share);
      return keep_mass(row, share * mass, args.top_p_inclusive);
    }
    case SamplingStep::kMinP:
      if (args.min_p > 0.0f) keep_above_min_p(row, args.min_p);
      return;
    case SamplingStep::kXtc:
      // As in llama.cpp: above one half there can be no second choice.
      if (args.xtc_threshold > 0.5f || args.xtc_uniform >= static_cast<double>(args.xtc_probability)) return;
      return exclude_top_choices(row, static_cast<double>(args.xtc_threshold));
    case SamplingStep::kTemperature:
      return divide_by_temperature(row, args);
    case SamplingStep::kMirostat:
      return keep_unsurprising(row, static_cast<double>(args.mirostat_mu));
  }
}

// The arrays of `Row` are worth keeping: a token every few milliseconds.
Row& start(const float* logits, std::int64_t count) {
  thread_local Row row;
  row.logits = logits;
  row.count = count;
  row.scale = 1.0f;
  row.narrow = false;
  if (row.ids.empty()) row.ids.resize(1024);
  return row;
}

std::int32_t largest_of(Row& row) {
  if (row.narrow) {
    keep_best(row, 1);
    return row.kept.front().id;
  }
  std::int32_t id = 0;
  kernels().sampling.at_least(row.logits, row.count, row.largest, &id, 1);
  return id;
}

bool changes_logits(SamplingStep step) {
  return step == SamplingStep::kPenalties || step == SamplingStep::kDry;
}

}  // namespace

std::int32_t sample(const float* logits, std::int64_t count, const SamplingArgs& args, double* surprise) {
  Row& row = start(logits, count);
  // Before the mask: it must not hide that a model has computed nonsense.
  row.largest = kernels().sampling.maximum(row.logits, count);
  if (std::isnan(row.largest)) return kNanLogits;
  adjust(row, args);
  if (surprise != nullptr) *surprise = 0.0;
  const bool greedy = std::isinf(1.0f / args.temperature);
  for (std::int64_t i = 0; i < args.step_count; ++i) {
    if (std::isnan(row.largest)) return kNanLogits;
    if (row.largest == kMinusInfinity) return kNothingLeft;
    if (!greedy || changes_logits(args.steps[i])) take(row, args.steps[i], args);
  }
  if (std::isnan(row.largest)) return kNanLogits;
  if (row.largest == kMinusInfinity || (row.narrow && row.kept.empty())) return kNothingLeft;
  if (greedy) return largest_of(row);
  const Drawn drawn = row.narrow ? draw_kept(row, row.scale, args.uniform) : draw_any(row, row.scale, args.uniform);
  if (surprise != nullptr) *surprise = -std::log2(drawn.probability);
  return drawn.id;
}

bool log_probabilities(const float* logits, std::int64_t count, const std::int32_t* ids, std::int64_t wanted,
                       float* out) {
  const SamplingKernels& kernel = kernels().sampling;
  const float largest = kernel.maximum(logits, count);
  if (!std::isfinite(largest)) return false;
  const double log_mass = std::log(kernel.softmax_sums(logits, count, largest, 1.0f).mass);
  for (std::int64_t i = 0; i < wanted; ++i) {
    out[i] = static_cast<float>(static_cast<double>(logits[ids[i]]) - static_cast<double>(largest) - log_mass);
  }
  return true;
}

bool top_log_probabilities(const float* logits, std::int64_t count, std::int64_t k, std::int32_t* ids, float* out) {
  Row& row = start(logits, count);
  row.largest = kernels().sampling.maximum(logits, count);
  if (!std::isfinite(row.largest)) return false;
  if (k == 0) return true;
  start_with_best(row, k);
  std::sort(row.kept.begin(), row.kept.end(), better);
  std::size_t filled = row.kept.size();
  for (std::size_t i = 0; i < filled; ++i) ids[i] = row.kept[i].id;
  // Fewer than k are above minus infinity: the lowest ids among the rest make up the number.
  for (std::int32_t id = 0; static_cast<std::int64_t>(filled) < k; ++id) {
    if (logits[id] == kMinusInfinity) ids[filled++] = id;
  }
  return log_probabilities(logits, count, ids, k, out);
}

// SplitMix64 (Steele, Lea and Flood 2014): the position-th output of the generator that the mixed seed starts.
double uniform(std::uint64_t seed, std::uint64_t position, std::uint64_t purpose) {
  auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  std::uint64_t state = mix(seed + kGolden);
  if (purpose != 0) state = mix(state + purpose * kGolden);
  const std::uint64_t bits = mix(state + (position + 1) * kGolden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace pronk
