// A row of logits and what filters leave of it. The vocabulary (128k logits) is scanned a few times at vector speed and
// never sorted: what a filter keeps is found by a threshold that surely lets enough tokens through, and by selection
// among those.
//
// Ties: of two tokens with equal logits the lower id comes first, in every filter.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "pronk/kernels.hpp"
#include "pronk/sampling.hpp"

namespace pronk {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
inline constexpr float kLowest = std::numeric_limits<float>::lowest();

struct Candidate {
  double key;  // what the filters rank by: larger is better
  float logit;
  float weight;  // e^((logit - largest) * scale)
  std::int32_t id;
};

inline bool better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.id < b.id;
}

// One row of logits with what is known of it, and the arrays that every call uses again. At first every token of the
// vocabulary is there (`logits`); once a filter has dropped some, the row is `narrow` and `kept` has the rest, by id.
struct Row {
  const float* logits;
  std::int64_t count;
  float largest;       // weights are relative to it
  float scale = 1.0f;  // of the distribution: softmax(logits * scale)
  bool narrow = false;
  std::vector<float> adjusted, gathered, weights;
  std::vector<std::int32_t> ids;
  std::vector<Candidate> kept, ranked;
};

// Logits that may be changed.
inline float* own(Row& row) {
  if (row.logits != row.adjusted.data()) {
    row.adjusted.assign(row.logits, row.logits + row.count);
    row.logits = row.adjusted.data();
  }
  return row.adjusted.data();
}

// Keeps tokens with logit >= threshold (never those at minus infinity), in the order of their ids.
inline void keep_at_least(Row& row, float threshold) {
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
  row.narrow = true;
  kernel.exponentials(row.gathered.data(), found, row.largest, row.scale, row.weights.data());
  for (std::size_t i = 0; i < n; ++i) {
    row.kept[i] = {static_cast<double>(row.gathered[i]), row.gathered[i], row.weights[i], row.ids[i]};
  }
}

inline double mass_of(const std::vector<Candidate>& candidates) {
  double mass = 0.0;
  for (const Candidate& c : candidates) mass += static_cast<double>(c.weight);
  return mass;
}

// Drops what comes after `last` in rank. The order by id stays.
inline void drop_after(Row& row, const Candidate last) {
  row.kept.erase(std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return better(last, c); }),
                 row.kept.end());
}

inline void keep_best(Row& row, std::int64_t k) {
  if (k >= static_cast<std::int64_t>(row.kept.size())) return;
  row.ranked = row.kept;
  const auto last = row.ranked.begin() + (k - 1);
  std::nth_element(row.ranked.begin(), last, row.ranked.end(), better);
  drop_after(row, *last);
}

// Keeps, from the best on, the tokens that less than `mass` lies before (or just as much, with `or_equal`); always one.
// A search by halves for the last of them, so that only one half is looked at again: linear time.
inline void keep_mass(Row& row, double mass, bool or_equal) {
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
inline float reached_by(const Row& row, std::int64_t k) {
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
inline void start_with_best(Row& row, std::int64_t k) {
  keep_at_least(row, reached_by(row, k));
  keep_best(row, k);
}

// At least the tokens that top_p of the whole vocabulary's mass needs; returns that mass. Most often a few hundred:
// those within e^-8 of the best.
inline double start_with_mass(Row& row, double share) {
  const double mass = kernels().sampling.softmax_sums(row.logits, row.count, row.largest, row.scale).mass;
  for (float distance = 8.0f;; distance *= 2.0f) {
    const float threshold = row.largest - distance / row.scale;
    keep_at_least(row, threshold);
    // The next token might still begin below the share: so more than the share must be there, or everything.
    if (mass_of(row.kept) > share * mass || distance > 128.0f) return mass;
  }
}

// Locally typical sampling (Meister et al. 2022): ranks by how near a token's surprise is to the expected one.
inline void keep_typical(Row& row, double share) {
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
inline float min_p_threshold(const Row& row, float min_p) {
  return static_cast<float>(row.largest + std::log(static_cast<double>(min_p)) / static_cast<double>(row.scale));
}

inline double entropy_of(const std::vector<Candidate>& candidates) {
  const double mass = mass_of(candidates);
  double entropy = 0.0;
  for (const Candidate& c : candidates) {
    const double p = static_cast<double>(c.weight) / mass;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  return entropy;
}

inline void keep_above_min_p(Row& row, float min_p) {
  if (!row.narrow) return keep_at_least(row, min_p_threshold(row, min_p));
  // An earlier filter may have dropped the most probable token: the best of what is left is the measure.
  float best = kMinusInfinity;
  for (const Candidate& c : row.kept) best = std::max(best, c.logit);
  const float threshold = best - (row.largest - min_p_threshold(row, min_p));
  row.kept.erase(
      std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return c.logit < threshold; }),
      row.kept.end());
}

// Top-n-sigma (Tang et al. 2024): logits within n standard deviations of the largest.
inline void keep_top_n_sigma(Row& row, double n) {
  double sum = 0.0, squares = 0.0, count = 0.0;
  float largest = kMinusInfinity;
  const auto each = [&](const auto& body) {
    if (row.narrow) {
      for (const Candidate& c : row.kept) body(c.logit);
    } else {
      for (std::int64_t i = 0; i < row.count; ++i) {
        if (row.logits[i] > kMinusInfinity) body(row.logits[i]);
      }
    }
  };
  each([&](float logit) {
    sum += static_cast<double>(logit);
    count += 1.0;
    largest = std::max(largest, logit);
  });
  const double mean = sum / count;
  each([&](float logit) { squares += (static_cast<double>(logit) - mean) * (static_cast<double>(logit) - mean); });
  const auto threshold = static_cast<float>(static_cast<double>(largest) - n * std::sqrt(squares / count));
  if (!row.narrow) return keep_at_least(row, threshold);
  row.kept.erase(
      std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return c.logit < threshold; }),
      row.kept.end());
}

// "Exclude top choices" (p-e-w, text-generation-webui 2024): of the tokens that have at least the threshold's
// probability, only the least probable one stays.
inline void exclude_top_choices(Row& row, double threshold) {
  if (!row.narrow) {
    // Seldom without a filter before it; a row with few tokens less is not worth a case of its own.
    keep_at_least(row, kLowest);
  }
  const double least = threshold * mass_of(row.kept);
  const auto is_top = [&](const Candidate& c) { return static_cast<double>(c.weight) >= least; };
  const Candidate* last = nullptr;
  for (const Candidate& c : row.kept) {
    if (is_top(c) && (last == nullptr || better(*last, c))) last = &c;
  }
  if (last == nullptr) return;
  const std::int32_t stays = last->id;
  row.kept.erase(
      std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return is_top(c) && c.id != stays; }),
      row.kept.end());
}

// Mirostat 2 (Basu et al. 2020): tokens of at most `bits` of surprise.
inline void keep_unsurprising(Row& row, double bits) {
  const double mass = row.narrow ? mass_of(row.kept)
                                 : kernels().sampling.softmax_sums(row.logits, row.count, row.largest, row.scale).mass;
  const double below = (std::log(mass) - bits * std::log(2.0)) / static_cast<double>(row.scale);
  float best = row.largest;
  if (row.narrow) {
    best = kMinusInfinity;
    for (const Candidate& c : row.kept) best = std::max(best, c.logit);
  }
  const auto wanted = static_cast<float>(static_cast<double>(row.largest) + below);
  const float threshold = std::min(wanted, best);
  if (!row.narrow) {
    keep_at_least(row, threshold);
  } else {
    row.kept.erase(
        std::remove_if(row.kept.begin(), row.kept.end(), [&](const Candidate& c) { return c.logit < threshold; }),
        row.kept.end());
  }
  if (wanted > best) keep_best(row, 1);
}

}  // namespace pronk
