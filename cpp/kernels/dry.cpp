// Which tokens would go on with a sequence that the history has already. Linear in the history's length.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "pronk/sampling.hpp"

namespace pronk {

namespace {

// The end of the history, counted from its last token: at(0) is that one.
struct Reversed {
  const std::int32_t* last;
  std::int32_t at(std::int64_t i) const { return last[-i]; }
};

// How many tokens have come since the last breaker: a sequence that counts is no longer.
std::int64_t since_breaker(const DryArgs& dry, const Reversed& history) {
  for (std::int64_t i = 0; i < dry.length; ++i) {
    const std::int32_t* end = dry.heads + dry.breakers;
    const auto [from, to] = std::equal_range(dry.heads, end, history.at(i));
    std::int64_t longest = -1;
    for (const std::int32_t* head = from; head != to; ++head) {
      const std::int32_t* tail = dry.tails + dry.tail_starts[head - dry.heads];
      const std::int64_t size = dry.tail_starts[head - dry.heads + 1] - dry.tail_starts[head - dry.heads];
      if (size <= longest || size > i) continue;
      bool matches = true;
      for (std::int64_t k = 0; k < size && matches; ++k) matches = tail[k] == history.at(i - 1 - k);
      if (matches) longest = size;
    }
    if (longest >= 0) return i - longest;
  }
  return dry.length;
}

bool is_breaker(const DryArgs& dry, std::int32_t id) {
  const auto [from, to] = std::equal_range(dry.heads, dry.heads + dry.breakers, id);
  return std::any_of(from, to, [&](const std::int32_t& head) {
    return dry.tail_starts[&head - dry.heads] == dry.tail_starts[&head - dry.heads + 1];
  });
}

}  // namespace

void find_repeats(const DryArgs& dry, std::vector<Repeat>& repeats) {
  repeats.clear();
  const std::int64_t n = dry.length;
  if (n <= dry.allowed_length) return;
  const Reversed history{dry.history + n - 1};
  const std::int64_t most = since_breaker(dry, history);
  if (most < dry.allowed_length) return;
  // The Z algorithm on the reversed history: same[i] tokens before and at place i are the ones at the very end.
  thread_local std::vector<std::int64_t> same;
  same.assign(static_cast<std::size_t>(n), 0);
  std::int64_t left = 0, right = 0;  // the match that reaches farthest
  for (std::int64_t i = 1; i < n; ++i) {
    std::int64_t length = i < right ? std::min(right - i, same[static_cast<std::size_t>(i - left)]) : 0;
    while (i + length < n && history.at(length) == history.at(i + length)) ++length;
    if (i + length > right) {
      left = i;
      right = i + length;
    }
    same[static_cast<std::size_t>(i)] = length;
    if (const std::int64_t repeat = std::min(length, most); repeat >= dry.allowed_length) {
      repeats.push_back({history.at(i - 1), repeat});
    }
  }
  std::sort(repeats.begin(), repeats.end(),
            [](const Repeat& a, const Repeat& b) { return a.id != b.id ? a.id < b.id : a.length > b.length; });
  repeats.erase(
      std::unique(repeats.begin(), repeats.end(), [](const Repeat& a, const Repeat& b) { return a.id == b.id; }),
      repeats.end());
  repeats.erase(std::remove_if(repeats.begin(), repeats.end(), [&](const Repeat& r) { return is_breaker(dry, r.id); }),
                repeats.end());
}

}  // namespace pronk
