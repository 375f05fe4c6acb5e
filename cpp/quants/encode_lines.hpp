// The entries of a grid as lines over the scale.
//
// At a scale s, an entry g takes s * (2 a - s b) off the squared error, with a = sum(w x g) and b = sum(w g g) over its
// values. So the best entry at s is the one of the highest a - (s / 2) b: each entry is a line over the scale, and few
// of the lines are the highest anywhere. These are found once for every place of the block. From then on a scale costs
// next to nothing to try, and the entries found for it are the best there are.
#pragma once

namespace pronk::PRONK_ISA {

// Those that are the highest somewhere, and some that nearly are; in whole vectors, whose unused lanes are never best.
// There are some ten, and hardly ever more than there is room for; then some of the highest are not found.
struct Lines {
  static constexpr int kMost = 96;
  alignas(64) float a[kMost], b[kMost];
  std::uint16_t entry[kMost];
  int count = 0;

  void put(float line_a, float line_b, int line_entry) {
    if (count == kMost) return;
    a[count] = line_a;
    b[count] = line_b;
    entry[count++] = static_cast<std::uint16_t>(line_entry);
  }

  void fill_up() {
    for (; count % 16 != 0; ++count) {
      a[count] = -1e30f;
      b[count] = 0.0f;
      entry[count] = 0;
    }
  }
};

inline int lowest_bit(std::uint32_t word) {
  return __builtin_ctz(word);
}

// Of `count` lines, whole vectors of them, the highest at half of each of some scales.
template <int kScales>
void highest(const float* a, const float* b, int count, const float* halves, int* lines) {
  Vec16 most[kScales], where[kScales];
  for (int s = 0; s < kScales; ++s) {
    most[s] = broadcast(-3e38f);
    where[s] = zero();
  }
  for (int i = 0; i < count; i += 16) {
    const Vec16 line_a = load(a + i), line_b = load(b + i), here = broadcast(static_cast<float>(i));
    for (int s = 0; s < kScales; ++s) {
      const Vec16 height = sub(line_a, mul(broadcast(halves[s]), line_b));
      const Mask16 higher = less(most[s], height);
      most[s] = select(higher, height, most[s]);
      where[s] = select(higher, here, where[s]);
    }
  }
  for (int s = 0; s < kScales; ++s) {
    const int lane = lowest_bit(0xffffu & ~bits(less(most[s], broadcast(reduce_max(most[s])))));
    alignas(64) float first[16];
    store(first, where[s]);
    lines[s] = static_cast<int>(first[lane]) + lane;
  }
}

// Scales among which all that is tried lies, or near them: from the least to the most.
constexpr int kRungs = 3;
struct Rungs {
  float half[kRungs];
};

// The lines that are the highest at some scale between the rungs'. Between two rungs such a line is higher than the
// highest ones of both where these cross. And the grid's first entry, of the least levels, for scales far above.
inline void keep_highest(const float* a, const float* b, int count, const Rungs& rungs, Lines& out) {
  int at[kRungs];
  highest<kRungs>(a, b, count, rungs.half, at);
  out.count = 0;
  out.put(a[0], b[0], 0);
  out.put(a[at[0]], b[at[0]], at[0]);
  float crossing[kRungs - 1], bar[kRungs - 1];
  for (int r = 0; r < kRungs - 1; ++r) {
    const int low = at[r], high = at[r + 1];
    const float fall = b[low] - b[high];
    crossing[r] = fall > 0.0f ? (a[low] - a[high]) / fall : 0.0f;
    bar[r] = fall > 0.0f ? a[low] - crossing[r] * b[low] : 3e38f;
    if (fall > 0.0f) out.put(a[high], b[high], high);
  }
  for (int i = 0; i < count; i += 16) {
    const Vec16 line_a = load(a + i), line_b = load(b + i);
    std::uint32_t above = 0;
    for (int r = 0; r < kRungs - 1; ++r) {
      above |= bits(less(broadcast(bar[r]), sub(line_a, mul(broadcast(crossing[r]), line_b))));
    }
    for (; above != 0; above &= above - 1) {
      const int line = i + lowest_bit(above);
      out.put(a[line], b[line], line);
    }
  }
  out.fill_up();
}

}  // namespace pronk::PRONK_ISA
