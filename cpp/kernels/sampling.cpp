// One row of logits -> one token. The vocabulary (128k logits) is scanned a few times at vector speed and never sorted:
// what a filter keeps is found by a threshold that surely lets enough tokens through, and by selection among those.
//
// Ties: of two tokens with equal logits the lower id comes first, in every filter. The random number picks along the
// kept tokens in the order of their ids; so no order by probability is ever needed, and the result is exact.
#include "pronk/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "pronk/kernels.hpp"

namespace pronk {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

struct Candidate {
  double key;  // what the filters rank by: larger is better
  float logit;
  float weight;  // e^((logit - largest) * scale)
  std::int32_t id;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.id < b.id;
}

// One row of logits with what is known of it, and the arrays that every call uses again.
struct Row {
  const float* logits;
  std::int64_t count;
  float largest;
  float scale = 1.0f;  // of the distribution that filters see
  std::vector<float> adjusted, gathered, weights;
  std::vector<std::int32_t> ids;
  std::vector<Candidate> kept, ranked;
};

// Keeps tokens with logit >= threshold (never those at minus infinity), in the order of their ids.
void keep_at_least(Row& row, float threshold) {
  threshold = std::max(threshold, kLowest);
  const SamplingKernels& kernel = kernels().sampling;
  std::int64_t found =
      kernel.at_least(row.logits, row.count, threshold, row.ids.data(), static_cast<std::int64_t>(row.ids.size()));
  if (found > static_cast<std::int64_t>(row.ids.size())) {
    row.ids.resize(static_cast<std::size_t>(found));
    kernel.at_least(row.logits, row.count, threshold, row.ids.data(), found);
  }
  const auto n = static_cast<std::size_t>(found);
  row.gathered.resize(n);
  row.weights.resize(n);
  row.kept.resize(n);
  for (std::size_t i = 0; i < n; ++i) row.gathered[i] = row.logits[row.ids[i]];
  kernel.exponentials(row.gathered.data(), found, row.largest, row.scale, row.weights.data());
  for (std::size_t i = 0; i < n; ++i) {
    row.kept[i] = {static_cast<double>(row.gathered[i]), row.gathered[i], row.weights[i], row.ids[i]};
  }
}

double mass_of(const std::vector<Candidate>& candidates) {
  double mass = 0.0;
  for (const Candidate& c : candidates) mass += static_cast<double>(c.weight);
  return mass;
}

// Drops what comes after `last` in rank. The order by id stays.
void drop_after(Row& row, const Candidate last) {
  row.kept.erase(std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return better(last, c); }),
                 row.kept.end());
}

void keep_best(Row& row, std::int64_t k) {
  if (k >= static_cast<std::int64_t>(row.kept.size())) return;
  row.ranked = row.kept;
  const auto last = row.ranked.begin() + (k - 1);
  std::nth_element(row.ranked.begin(), last, row.ranked.end(), better);
  drop_after(row, *last);
}

// Keeps, from the best on, the tokens that less than `mass` lies before (or just as much, with `or_equal`); always one.
// A search by halves for the last of them, so that only one half is looked at again: linear time.
void keep_mass(Row& row, double mass, bool or_equal) {
  if (row.kept.size() < 2) return;
  row.ranked = row.kept;
  auto low = row.ranked.begin(), high = row.ranked.end();
  double before = 0.0;  // mass of all that ranks before `low`
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, better);
    double half = 0.0;
    for (auto i = low; i != middle; ++i) half += static_cast<double>(i->weight);
    const bool keeps_middle = or_equal ? before + half <= mass : before + half < mass;
    if (keeps_middle) {
      before += half;
      low = middle;
    } else {
      high = middle;
    }
  }
  drop_after(row, *low);
}

// A logit that at least k tokens reach, and not many more: the k-th largest of the maxima of small blocks.
float reached_by(const Row& row, std::int64_t k) {
  const std::int64_t block = std::min<std::int64_t>(row.count / (8 * k) / 16 * 16, 1024);
  if (block < 16) return kLowest;
  std::vector<float> maxima;
  maxima.reserve(static_cast<std::size_t>(row.count / block + 1));
  const auto maximum = kernels().sampling.maximum;
  for (std::int64_t i = 0; i < row.count; i += block) {
    maxima.push_back(maximum(row.logits + i, std::min(block, row.count - i)));
  }
  std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
  return maxima[static_cast<std::size_t>(k - 1)];
}

// The k best tokens.
void start_with_best(Row& row, std::int64_t k) {
  keep_at_least(row, reached_by(row, k));
  keep_best(row, k);
}

// At least the tokens that top_p of the whole vocabulary's mass needs; returns that mass. Most often a few hundred:
// those within e^-8 of the best.
double start_with_mass(Row& row, double share) {
  const double mass = kernels().sampling.softmax_sums(row.logits, row.count, row.largest, row.scale).mass;
  for (float distance = 8.0f;; distance *= 2.0f) {
    const float threshold = row.largest - distance / row.scale;
    keep_at_least(row, threshold);
    // The next token might still begin below the share: so more than the share must be there, or everything.
    if (mass_of(row.kept) > share * mass || distance > 128.0f) return mass;
  }
}

// Locally typical sampling (Meister et al. 2022): ranks by how near a token's surprise is to the expected one.
void keep_typical(Row& row, double share) {
  const double mass = mass_of(row.kept), log_mass = std::log(mass);
  auto surprise = [&](const Candidate& c) {
    return log_mass - (static_cast<double>(c.logit) - static_cast<double>(row.largest)) * row.scale;
  };
  double entropy = 0.0;
  for (const Candidate& c : row.kept) {
    if (c.weight > 0.0f) entropy += static_cast<double>(c.weight) / mass * surprise(c);
  }
  for (Candidate& c : row.kept) c.key = -std::abs(surprise(c) - entropy);
  keep_mass(row, share * mass, true);
  for (Candidate& c : row.kept) c.key = static_cast<double>(c.logit);
}

// The logit below which min_p drops a token: p < min_p * (the largest p).
float min_p_threshold(const Row& row, float min_p) {
  return static_cast<float>(row.largest + std::log(static_cast<double>(min_p)) / static_cast<double>(row.scale));
}

// Fills row.kept with what the filters leave, in the order of ids. Each filter sees the distribution that the one
// before left.
void filter(Row& row, const SamplingArgs& args) {
  const bool by_rank = args.top_k > 0 && args.top_k < row.count, by_mass = args.top_p < 1.0f;
  const bool by_type = args.typical_p < 1.0f, by_size = args.min_p > 0.0f;
  double mass = -1.0;  // of the tokens that top_p sees, where it is not just row.kept's
  if (by_rank) {
    start_with_best(row, args.top_k);
  } else if (by_type) {
    keep_at_least(row, kLowest);
  } else if (by_mass) {
    mass = start_with_mass(row, static_cast<double>(args.top_p));
  } else {
    keep_at_least(row, by_size ? min_p_threshold(row, args.min_p) : kLowest);
  }
  if (by_type) keep_typical(row, static_cast<double>(args.typical_p));
  if (by_mass) {
    if (mass < 0.0) mass = mass_of(row.kept);
    keep_mass(row, static_cast<double>(args.top_p) * mass, args.temperature_first);
  }
  if (by_size) {
    // Typical sampling may have dropped the most probable token: the best of what is left is the measure.
    float best = kMinusInfinity;
    for (const Candidate& c : row.kept) best = std::max(best, c.logit);
    const float threshold = best - (row.largest - min_p_threshold(row, args.min_p));
    row.kept.erase(
        std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return c.logit < threshold; }),
        row.kept.end());
  }
}

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

std::int32_t draw_kept(Row& row, float scale, double uniform) {
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
  return row.kept[static_cast<std::size_t>(pick(row.weights.data(), count, uniform * mass))].id;
}

// From the whole softmax: the block in which the random number falls, then the token in the block.
std::int32_t draw_any(Row& row, float scale, double uniform) {
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
  return static_cast<std::int32_t>(begin + pick(row.weights.data(), count, target - before));
}

// Penalties, bias and mask change logits: then the row becomes a copy.
void adjust(Row& row, const SamplingArgs& args) {
  const bool penalised = args.seen > 0 && (args.repetition_penalty != 1.0f || args.presence_penalty != 0.0f ||
                                           args.frequency_penalty != 0.0f);
  if (!penalised && args.biases == 0 && args.allowed == nullptr) return;
  row.adjusted.assign(row.logits, row.logits + row.count);
  float* logits = row.adjusted.data();
  row.logits = logits;
  if (penalised) {
    for (std::int64_t i = 0; i < args.seen; ++i) {
      float& logit = logits[args.seen_ids[i]];
      // Keskar et al. 2019: towards less probable, whichever the sign.
      logit = logit > 0.0f ? logit / args.repetition_penalty : logit * args.repetition_penalty;
      const std::int32_t times = args.seen_counts[i];
      if (times > 0) logit -= static_cast<float>(times) * args.frequency_penalty + args.presence_penalty;
    }
  }
  for (std::int64_t i = 0; i < args.biases; ++i) logits[args.bias_ids[i]] += args.bias_values[i];
  if (args.allowed == nullptr) return;
  for (std::int64_t i = 0; i < row.count; i += 32) {
    const std::uint32_t word = args.allowed[i / 32];
    if (word == 0xffffffffu) continue;
    for (std::int64_t j = i; j < std::min(i + 32, row.count); ++j) {
      if ((word >> (j - i) & 1u) == 0) logits[j] = kMinusInfinity;
    }
  }
}

// The arrays of `Row` are worth keeping: a token every few milliseconds.
Row& start(const float* logits, std::int64_t count) {
  thread_local Row row;
  row.logits = logits;
  row.count = count;
  row.scale = 1.0f;
  if (row.ids.empty()) row.ids.resize(1024);
  return row;
}

}  // namespace

std::int32_t sample(const float* logits, std::int64_t count, const SamplingArgs& args) {
  Row& row = start(logits, count);
  const SamplingKernels& kernel = kernels().sampling;
  // Before the mask: it must not hide that a model has computed nonsense.
  row.largest = kernel.maximum(row.logits, count);
  if (std::isnan(row.largest)) return kNanLogits;
  adjust(row, args);
  if (row.logits != logits) row.largest = kernel.maximum(row.logits, count);
  if (std::isnan(row.largest)) return kNanLogits;
  if (row.largest == kMinusInfinity) return kNothingLeft;

  const float scale = 1.0f / args.temperature;
  if (std::isinf(scale)) {
    std::int32_t id = 0;
    kernel.at_least(row.logits, count, row.largest, &id, 1);
    return id;
  }
  const bool filtered =
      (args.top_k > 0 && args.top_k < count) || args.top_p < 1.0f || args.min_p > 0.0f || args.typical_p < 1.0f;
  if (!filtered) return draw_any(row, scale, args.uniform);
  if (args.temperature_first) row.scale = scale;
  filter(row, args);
  return draw_kept(row, scale, args.uniform);
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
double uniform(std::uint64_t seed, std::uint64_t position) {
  auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const std::uint64_t bits = mix(mix(seed + kGolden) + (position + 1) * kGolden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace pronk
