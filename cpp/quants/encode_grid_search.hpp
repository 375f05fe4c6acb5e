// The search for a block of entries of a grid: IQ1, IQ2 and IQ3. Which entries are best at a scale is a matter of lines
// (encode_lines.hpp), the rule of the signs included; here are the scales.
#pragma once

namespace pronk::PRONK_ISA {

// --- a group of places with one scale ---

// The values in the form that the searches take: magnitudes, and a sign bit for each value of an eight. (IQ1's levels
// have signs themselves: there the values stay as they are.)
struct GridBlock {
  Plain<256> plain;
  alignas(64) float x[256];
  std::uint8_t negative[32];
};

inline bool odd(int bits) {
  return (__builtin_popcount(static_cast<unsigned>(bits)) & 1) != 0;
}

// Entries for a group, and the sums of their a and b.
struct GridGroup {
  Projection sums;
  std::uint16_t entry[8];
  std::uint8_t signs[4];  // IQ1: not 0 for minus one
  bool turned[8];         // entries in which the sign is turned that costs the least

  void take(int place, const Lines& lines, float half) {
    int line;
    highest<1>(lines.a, lines.b, lines.count, &half, &line);
    sums.xl += lines.a[line];
    sums.ll += lines.b[line];
    entry[place] = lines.entry[line];
    turned[place] = false;
  }

  // Of the squared error, less what it is without the group.
  float error(float scale) const { return scale * (scale * sums.ll - 2.0f * sums.xl); }
};

// IQ2 and IQ3: magnitudes from the grid, and signs. kEven: an even number of signs of an eight are negative.
template <Book kBook, int kGroup, int kEntryValues, bool kEven>
struct SignedGrid {
  static constexpr int kValues = kGroup, kPlaces = kGroup / kEntryValues, kInEight = 8 / kEntryValues;
  static constexpr int kLists = kEven && kInEight == 2 ? 2 : 1;  // the entries as they are, and with a sign turned
  static constexpr int kTopScale = 15;
  static const Codebook& book() { return codebook(kBook); }
  static float lowest() { return book().lowest; }
  static float highest_level() { return book().highest; }

  // Where the signs of an eight are odd, one is turned: that of the least w * x * g, and a loses it twice.
  static void find_lines(const GridBlock& block, int first, const Rungs& rungs, Lines (*lines)[kLists]) {
    constexpr int kEntries = Codebook::kEntries;
    alignas(64) float a[kEntries], turned[kEntries], b[kEntries];
    for (int p = 0; p < kPlaces; ++p) {
      const int at = first + kEntryValues * p;
      const bool turn = kEven && odd(block.negative[at / 8]);
      sum_entries(block.x + at, block.plain.w + at, a, turned, b);
      if (!turn || kInEight == 2) keep_highest(a, b, book().entries, rungs, lines[p][0]);
      if (turn) keep_highest(turned, b, book().entries, rungs, lines[p][kLists - 1]);
    }
  }

  static void sum_entries(const float* x, const float* w, float* a, float* turned, float* b) {
    const Codebook& grid = book();
    for (int i = 0; i < grid.entries; i += 16) {
      Vec16 xl = zero(), ll = zero(), least = broadcast(3e38f);
      for (int j = 0; j < kEntryValues; ++j) {
        const Vec16 level = load(grid.level[i / 16][j]), weighted = mul(broadcast(w[j]), level);
        const Vec16 product = mul(broadcast(x[j]), weighted);
        xl = add(xl, product);
        ll = add(ll, mul(weighted, level));
        if constexpr (kEven) least = min(least, product);
      }
      store(a + i, xl);
      store(b + i, ll);
      if constexpr (kEven) store(turned + i, sub(xl, add(least, least)));
    }
  }

  static GridGroup search(const GridBlock& block, int first, const Lines (*lines)[kLists], float scale) {
    GridGroup out;
    const float half = 0.5f * scale;
    for (int p = 0; p < kPlaces; p += kInEight) {
      const bool turn = kEven && odd(block.negative[(first + kEntryValues * p) / 8]);
      if (turn && kInEight == 2) {
        take_pair(lines, p, half, out);
      } else {
        for (int i = p; i < p + kInEight; ++i) out.take(i, lines[i][0], half);
        out.turned[p] = turn;
      }
    }
    return out;
  }

  // One of the two entries has the turned sign.
  static void take_pair(const Lines (*lines)[kLists], int p, float half, GridGroup& out) {
    GridGroup second = out;
    out.take(p, lines[p][kLists - 1], half);
    out.take(p + 1, lines[p + 1][0], half);
    second.take(p, lines[p][0], half);
    second.take(p + 1, lines[p + 1][kLists - 1], half);
    const int at = second.error(2.0f * half) < out.error(2.0f * half) ? 1 : 0;
    if (at == 1) out = second;
    out.turned[p + at] = true;
  }

  static void put_signs(const GridBlock& block, int first, GridGroup& group) {
    for (int e = 0; e < kGroup / 8; ++e) group.signs[e] = block.negative[first / 8 + e];
    for (int p = 0; p < kPlaces; ++p) {
      if (!group.turned[p]) continue;
      const int at = first + kEntryValues * p;
      const int value = at % 8 + cheapest_turn(group.entry[p], block.x + at, block.plain.w + at);
      group.signs[p / kInEight] = static_cast<std::uint8_t>(group.signs[p / kInEight] ^ 1 << value);
    }
  }

  // The value of an entry whose sign costs the least to turn.
  static int cheapest_turn(int entry, const float* x, const float* w) {
    int cheapest = 0;
    float least = 3e38f;
    for (int j = 0; j < kEntryValues; ++j) {
      const float cost = x[j] * (w[j] * book().level[entry / 16][j][entry % 16]);
      if (cost < least) {
        least = cost;
        cheapest = j;
      }
    }
    return cheapest;
  }
};

// IQ1: entries of -8, 0 and 8, to all of which 1 is added or from all taken away; kShared: one such sign for the group,
// else one for each eight.
template <int kGroup, bool kShared>
struct ShiftedGrid {
  static constexpr int kValues = kGroup, kPlaces = kGroup / 8, kLists = 2;  // plus one, minus one
  static constexpr int kTopScale = 7;
  static const Codebook& book() { return codebook(Book::kIQ1); }
  static float lowest() { return 7.0f; }
  static float highest_level() { return 9.0f; }

  static void find_lines(const GridBlock& block, int first, const Rungs& rungs, Lines (*lines)[kLists]) {
    constexpr int kEntries = Codebook::kEntries;
    alignas(64) float a[2][kEntries], b[2][kEntries];
    for (int p = 0; p < kPlaces; ++p) {
      sum_entries(block.plain.x + first + 8 * p, block.plain.w + first + 8 * p, a, b);
      for (int minus = 0; minus < 2; ++minus) {
        keep_highest(a[minus], b[minus], book().entries, rungs, lines[p][minus]);
      }
    }
  }

  // sum(w x (g + 1)) and sum(w (g + 1)^2), and the same with g - 1.
  static void sum_entries(const float* x, const float* w, float (*a)[Codebook::kEntries],
                          float (*b)[Codebook::kEntries]) {
    float weights = 0.0f, values = 0.0f;
    for (int j = 0; j < 8; ++j) {
      weights += w[j];
      values += w[j] * x[j];
    }
    const Codebook& grid = book();
    for (int i = 0; i < grid.entries; i += 16) {
      Vec16 xl = zero(), l = zero(), ll = broadcast(weights);
      for (int j = 0; j < 8; ++j) {
        const Vec16 level = load(grid.level[i / 16][j]), weighted = mul(broadcast(w[j]), level);
        xl = add(xl, mul(broadcast(x[j]), weighted));
        l = add(l, weighted);
        ll = add(ll, mul(weighted, level));
      }
      const Vec16 twice = add(l, l);
      store(a[0] + i, add(xl, broadcast(values)));
      store(b[0] + i, add(ll, twice));
      store(a[1] + i, sub(xl, broadcast(values)));
      store(b[1] + i, sub(ll, twice));
    }
  }

  static GridGroup search(const GridBlock&, int, const Lines (*lines)[kLists], float scale) {
    GridGroup with[2], out;
    for (int p = 0; p < kPlaces; ++p) {
      for (int minus = 0; minus < 2; ++minus) {
        if constexpr (!kShared) with[minus] = out;
        with[minus].take(p, lines[p][minus], 0.5f * scale);
        with[minus].signs[p] = static_cast<std::uint8_t>(minus);
      }
      if constexpr (!kShared) out = with[with[1].error(scale) < with[0].error(scale) ? 1 : 0];
    }
    return kShared ? with[with[1].error(scale) < with[0].error(scale) ? 1 : 0] : out;
  }

  static void put_signs(const GridBlock&, int, GridGroup&) {}
};

// --- a block: x = d * (2 * k + 1) * level, k from 0 to kTopScale ---

template <class Form>
struct GridFit {
  static constexpr int kGroups = 256 / Form::kValues;
  GridBlock block;
  Lines lines[kGroups][Form::kPlaces][Form::kLists];
  Scale d;  // as the file has it: `part` of its value is the d above
  int k[kGroups];
  GridGroup group[kGroups];
};

// Scales to begin with, of what suits a normal distribution.
constexpr float kStarts[] = {0.65f, 0.78f, 0.9f, 1.02f, 1.15f, 1.35f};
constexpr float kRungScales[kRungs] = {0.5f, 0.9f, 1.7f};

// The scale that fits a group best, by itself. `typical` times the root mean square suits a normal distribution.
template <class Form>
Projection fit_grid_scale(GridFit<Form>& fit, int g, float typical) {
  constexpr int V = Form::kValues / 16;
  const int first = Form::kValues * g;
  const auto group = group_at<V>(fit.block.plain, first);
  Vec16 squares = zero(), weights = zero();
  for (int v = 0; v < V; ++v) {
    squares = add(squares, mul(mul(group.x[v], group.x[v]), group.w[v]));
    weights = add(weights, group.w[v]);
  }
  const float rms = __builtin_sqrtf(reduce_add(squares) / reduce_add(weights));
  const float peak = signed_peak(group), outlier = (peak < 0.0f ? -peak : peak) / Form::highest_level();
  const float middle = rms > 0.0f ? rms * typical : 1.0f;
  Rungs rungs;
  for (int r = 0; r < kRungs; ++r) rungs.half[r] = 0.5f * middle * kRungScales[r];
  if (0.5f * outlier > rungs.half[kRungs - 1]) rungs.half[kRungs - 1] = 0.5f * outlier;
  Form::find_lines(fit.block, first, rungs, fit.lines[g]);
  Projection best;
  if (!(rms > 0.0f)) return best;
  const auto try_at = [&](float scale) {
    const Projection found = Form::search(fit.block, first, fit.lines[g], scale).sums;
    if (!(found.xl > 0.0f && found.gain() > best.gain())) return false;
    best = found;
    return true;
  };
  for (const float start : kStarts) try_at(middle * start);
  try_at(outlier);
  try_at(rms / Form::lowest());  // values of one magnitude
  while (try_at(best.scale())) {
  }
  return best;
}

// As start_scale of the K types, for odd scales.
inline float start_odd_scale(const float* scales, const float* curvatures, int top) {
  const Vec16 scale = load(scales), curvature = load(curvatures);
  const float peak = reduce_max(scale), highest = static_cast<float>(2 * top + 1);
  if (!(peak > 0.0f)) return 0.0f;
  constexpr int kSteps = 32;
  float best = 0.0f, least = 3e38f;
  for (int i = 0; i < kSteps; ++i) {
    const float d = peak / (highest * (1.15f - 0.7f * static_cast<float>(i) / static_cast<float>(kSteps - 1)));
    const Vec16 halves = sub(mul(scale, broadcast(0.5f / d)), broadcast(0.5f));
    const Vec16 k = round(clamp(halves, 0.0f, static_cast<float>(top)));
    const Vec16 miss = sub(scale, mul(add(add(k, k), broadcast(1.0f)), broadcast(d)));
    const float cost = reduce_add(mul(mul(miss, miss), curvature));
    if (cost < least) {
      least = cost;
      best = d;
    }
  }
  return best;
}

template <class Form>
bool try_grid_scale(const GridFit<Form>& fit, int g, float d, int k, int& best_k, GridGroup& best, float& least) {
  if (k < 0 || k > Form::kTopScale) return false;
  const float scale = d * static_cast<float>(2 * k + 1);
  const GridGroup found = Form::search(fit.block, Form::kValues * g, fit.lines[g], scale);
  const float error = found.error(scale);
  if (!(error < least)) return false;
  least = error;
  best = found;
  best_k = k;
  return true;
}

// The group's scale at k, or at the neighbour towards which the levels found there pull, and on while that helps.
template <class Form>
void improve_grid_group(GridFit<Form>& fit, int g, float d) {
  float least = 3e38f;
  int& k = fit.k[g];
  try_grid_scale(fit, g, d, k, k, fit.group[g], least);
  const int step = fit.group[g].sums.scale() > d * static_cast<float>(2 * k + 1) ? 1 : -1;
  while (try_grid_scale(fit, g, d, k + step, k, fit.group[g], least)) {
  }
}

// `part` is the fraction of the file's d that a level of 1 and a scale of 1 stand for.
template <class Form>
bool fit_grid_block(const float* values, const float* importance, float part, float typical, GridFit<Form>& out) {
  constexpr int kGroups = GridFit<Form>::kGroups;
  GridBlock& block = out.block;
  if (!prepare(values, importance, kLeastValue, block.plain)) return false;
  for (int e = 0; e < 32; ++e) {
    int negative = 0;
    for (int j = 0; j < 8; ++j) {
      const float x = block.plain.x[8 * e + j];
      negative |= (x < 0.0f ? 1 : 0) << j;
      block.x[8 * e + j] = x < 0.0f ? -x : x;
    }
    block.negative[e] = static_cast<std::uint8_t>(negative);
  }
  alignas(64) float scales[16] = {}, curvatures[16] = {};
  for (int g = 0; g < kGroups; ++g) {
    const Projection fit = fit_grid_scale(out, g, typical);
    scales[g] = fit.scale();
    curvatures[g] = fit.ll;
  }
  out.d = to_scale(start_odd_scale(scales, curvatures, Form::kTopScale) / part, block.plain);
  double xl = 0.0;
  for (int turn = 0; turn < 2; ++turn) {
    const float d = out.d.value * part;
    double ll = 0.0;
    xl = 0.0;
    for (int g = 0; g < kGroups; ++g) {
      if (turn == 0) {
        const float near = clamp(0.5f * scales[g] * inverse_of(d) - 0.5f, 0.0f, static_cast<float>(Form::kTopScale));
        out.k[g] = static_cast<int>(round(near));
      }
      improve_grid_group(out, g, d);
      const double s = 2.0 * out.k[g] + 1.0;
      xl += s * static_cast<double>(out.group[g].sums.xl);
      ll += s * s * static_cast<double>(out.group[g].sums.ll);
    }
    if (turn == 1 || !(xl > 0.0 && ll > 0.0)) break;
    out.d = to_scale(static_cast<float>(xl / ll) / part, block.plain);
  }
  const float longer = stretch(block.plain, out.d.value * part * static_cast<float>(xl));
  out.d = to_scale(out.d.value * longer, block.plain);
  for (int g = 0; g < kGroups; ++g) Form::put_signs(block, Form::kValues * g, out.group[g]);
  return true;
}

}  // namespace pronk::PRONK_ISA
