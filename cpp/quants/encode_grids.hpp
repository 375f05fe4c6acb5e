// Encoders of the types whose values are entries of a grid: IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_M, IQ1_S.
//
// At a given scale the entry of least weighted error is found exactly, the rule of the signs included, without looking
// at most of the grid: an entry's cost is that of its two halves, a half has few states, and the states of the first
// half that cannot lead to the best entry are skipped (Codebook, encoders.hpp).
#pragma once

namespace pronk::PRONK_ISA {

// --- one entry ---

struct HalfCosts {
  alignas(64) float cost[Codebook::kStates];
};

// Of each part of a half, the costs of its states: as they are, and with the sign of one value turned.
struct PartCosts {
  Vec16 kept, turned;
};

template <int kRows>
void fill(const PartCosts& first, const PartCosts& second, HalfCosts& out) {
  alignas(64) float row[16];
  store(row, second.kept);
  for (int r = 0; r < kRows; ++r) store(out.cost + 16 * r, add(first.kept, broadcast(row[r])));
}

template <int kRows>
void fill_turned(const PartCosts& first, const PartCosts& second, HalfCosts& out) {
  alignas(64) float kept[16], turned[16];
  store(kept, second.kept);
  store(turned, second.turned);
  for (int r = 0; r < kRows; ++r) {
    store(out.cost + 16 * r, min(add(first.turned, broadcast(kept[r])), add(first.kept, broadcast(turned[r]))));
  }
}

struct Found {
  float cost = 3e38f;
  int entry = 0;
};

inline void look_at(const Codebook& book, const HalfCosts& first, const HalfCosts& second, int state, Found& best) {
  const float cost = first.cost[state];
  for (int i = book.start[state]; i < book.start[state + 1]; ++i) {
    const float both = cost + second.cost[book.second[i]];
    if (both < best.cost) best = {both, book.entry[i]};
  }
}

inline int lowest_bit(std::uint32_t word) {
  return __builtin_ctz(word);
}

template <int kRows>
void find(const Codebook& book, const HalfCosts& first, const HalfCosts& second, Found& best) {
  Vec16 least_first = load(first.cost), least_second = load(second.cost);
  for (int r = 1; r < kRows; ++r) {
    least_first = min(least_first, load(first.cost + 16 * r));
    least_second = min(least_second, load(second.cost + 16 * r));
  }
  const float lowest = reduce_min(least_first), rest = reduce_min(least_second);
  if (!(lowest + rest < best.cost)) return;
  // The cheapest state opens: its best entry rules out most of the others.
  for (int turn = 0; turn < 2; ++turn) {
    for (int r = 0; r < kRows; ++r) {
      const Vec16 costs = load(first.cost + 16 * r);
      const Mask16 dearer = less(broadcast(lowest), costs);
      std::uint32_t states =
          turn == 0 ? 0xffffu & ~bits(dearer) : bits(dearer) & bits(less(costs, broadcast(best.cost - rest)));
      for (; states != 0; states &= states - 1) {
        const int state = 16 * r + lowest_bit(states);
        if (first.cost[state] + rest < best.cost) look_at(book, first, second, state, best);
      }
    }
  }
}

inline Vec16 cost_of(const Vec16& level, float x, float w, float scale) {
  const Vec16 miss = sub(broadcast(x), mul(broadcast(scale), level));
  return mul(mul(miss, miss), broadcast(w));
}

// Of one value, or of a pair of values.
template <bool kPairs, bool kTurned>
PartCosts part_costs(const Codebook& book, const float* x, const float* w, float scale) {
  const Vec16 unused = load(book.unused), level = load(book.level[0]);
  PartCosts out{add(cost_of(level, x[0], w[0], scale), unused), zero()};
  if constexpr (kTurned) out.turned = add(cost_of(level, -x[0], w[0], scale), unused);
  if constexpr (kPairs) {
    const Vec16 level1 = load(book.level[1]);
    const Vec16 kept1 = cost_of(level1, x[1], w[1], scale);
    if constexpr (kTurned) {
      const Vec16 turned1 = cost_of(level1, -x[1], w[1], scale);
      out.turned = min(add(out.turned, kept1), add(out.kept, turned1));
    }
    out.kept = add(out.kept, kept1);
  }
  return out;
}

// --- eight values, whose signs are counted together ---

struct Eight {
  float cost = 0.0f;
  int entry[2] = {0, 0};  // IQ3 has two entries of four values, the others one of eight
  int turned = -1;        // the value whose sign is turned
};

// The value of an entry whose sign costs the least to turn.
inline int cheapest_turn(const Codebook& book, int entry, const float* x, const float* w) {
  int cheapest = 0;
  float least = 3e38f;
  for (int j = 0; j < book.values; ++j) {
    const float cost = w[j] * x[j] * static_cast<float>(book.value[entry][j]);
    if (cost < least) {
      least = cost;
      cheapest = j;
    }
  }
  return cheapest;
}

// The four halves' costs, of eight magnitudes: two halves of one entry, or of two entries two each.
template <int kEntryValues, bool kTurned>
Eight find_eight(const Codebook& book, const float* x, const float* w, float scale) {
  constexpr bool kPairs = kEntryValues == 8;
  constexpr int kEntries = 8 / kEntryValues, kStep = kPairs ? 2 : 1, kRows = kPairs ? 9 : 8;
  Found kept[kEntries], turned[kEntries];
  for (int e = 0; e < kEntries; ++e) {
    PartCosts parts[4];
    for (int p = 0; p < 4; ++p) {
      const int at = kEntryValues * e + kStep * p;
      parts[p] = part_costs<kPairs, kTurned>(book, x + at, w + at, scale);
    }
    HalfCosts first, second;
    fill<kRows>(parts[0], parts[1], first);
    fill<kRows>(parts[2], parts[3], second);
    if (!kTurned || kEntries == 2) find<kRows>(book, first, second, kept[e]);
    if constexpr (kTurned) {
      HalfCosts half;
      fill_turned<kRows>(parts[0], parts[1], half);
      find<kRows>(book, half, second, turned[e]);
      fill_turned<kRows>(parts[2], parts[3], half);
      find<kRows>(book, first, half, turned[e]);
    }
  }
  Eight out;
  if constexpr (!kTurned) {
    for (int e = 0; e < kEntries; ++e) {
      out.entry[e] = kept[e].entry;
      out.cost += kept[e].cost;
    }
  } else {
    int e = 0;  // the entry with the turned sign
    if (kEntries == 2 && kept[0].cost + turned[1].cost < turned[0].cost + kept[kEntries - 1].cost) e = 1;
    out.entry[e] = turned[e].entry;
    out.cost = turned[e].cost;
    if (kEntries == 2) {
      out.entry[1 - e] = kept[1 - e].entry;
      out.cost += kept[1 - e].cost;
    }
    out.turned = kEntryValues * e + cheapest_turn(book, out.entry[e], x + kEntryValues * e, w + kEntryValues * e);
  }
  return out;
}

// --- a group of eights with one scale ---

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

struct GridGroup {
  float error = 3e38f;
  std::uint16_t entry[8];
  std::uint8_t signs[4];        // IQ1: not 0 for minus one
  alignas(64) float level[32];  // with their signs
};

template <int kValues>
Projection project_levels(const float* x, const float* w, const float* levels) {
  constexpr int V = kValues / 16;
  Group<V> group;
  Vec16 level[V];
  for (int v = 0; v < V; ++v) {
    group.x[v] = load(x + 16 * v);
    group.w[v] = load(w + 16 * v);
    level[v] = load(levels + 16 * v);
  }
  return project(group, level);
}

// A group's levels at a scale by a quick guess: every value is rounded to a level, `shift` off, and the entry nearest
// to those is taken, whatever the weights. Only scales are found with it.
template <int kEntryValues>
void guess_levels(const Codebook& book, const float* x, int values, float scale, float shift, float* levels) {
  alignas(64) float rounded[32];
  const Vec16 inverse = broadcast(1.0f / (scale * book.step)), from = broadcast((book.base + shift) / book.step);
  for (int i = 0; i < values; i += 16) {
    const Vec16 level = sub(mul(load(x + i), inverse), from);
    store(rounded + i, round(clamp(level, 0.0f, static_cast<float>(book.levels - 1))));
  }
  for (int i = 0; i < values; i += kEntryValues) {
    int point = 0;
    for (int j = kEntryValues - 1; j >= 0; --j) point = point * book.levels + static_cast<int>(rounded[i + j]);
    const std::int8_t* entry = book.value[book.nearest[point]];
    for (int j = 0; j < kEntryValues; ++j) levels[i + j] = static_cast<float>(entry[j]) + shift;
  }
}

// IQ2 and IQ3. kEven: an even number of signs of an eight are negative.
template <Book kBook, int kGroup, int kEntryValues, bool kEven>
struct SignedGrid {
  static constexpr int kValues = kGroup;
  static constexpr int kTopScale = 15;
  static float lowest() { return codebook(kBook).base; }
  static float highest() {
    const Codebook& book = codebook(kBook);
    return book.base + book.step * static_cast<float>(book.levels - 1);
  }

  static Projection guess(const GridBlock& block, int first, float scale) {
    alignas(64) float levels[32];
    guess_levels<kEntryValues>(codebook(kBook), block.x + first, kGroup, scale, 0.0f, levels);
    return project_levels<kGroup>(block.x + first, block.plain.w + first, levels);
  }

  static void search(const GridBlock& block, int first, float scale, GridGroup& out) {
    const Codebook& book = codebook(kBook);
    out.error = 0.0f;
    for (int e = 0; e < kGroup / 8; ++e) {
      const float* x = block.x + first + 8 * e;
      const float* w = block.plain.w + first + 8 * e;
      int signs = block.negative[first / 8 + e];
      const bool turn = kEven && odd(signs);
      const Eight found =
          turn ? find_eight<kEntryValues, true>(book, x, w, scale) : find_eight<kEntryValues, false>(book, x, w, scale);
      if (turn) signs ^= 1 << found.turned;
      out.error += found.cost;
      out.signs[e] = static_cast<std::uint8_t>(signs);
      for (int j = 0; j < 8; ++j) {
        const int entry = found.entry[j / kEntryValues];
        const auto level = static_cast<float>(book.value[entry][j % kEntryValues]);
        out.level[8 * e + j] = signs >> j & 1 ? -level : level;
      }
      for (int i = 0; i < 8 / kEntryValues; ++i) {
        out.entry[e * (8 / kEntryValues) + i] = static_cast<std::uint16_t>(found.entry[i]);
      }
    }
  }
};

// IQ1: entries of -8, 0 and 8, to all of which 1 is added or from all taken away; kShared: one such sign for the group,
// else one for each eight. Taking from the levels is adding to the values.
template <int kGroup, bool kShared>
struct ShiftedGrid {
  static constexpr int kValues = kGroup;
  static constexpr int kTopScale = 7;
  static float lowest() { return 7.0f; }
  static float highest() { return 9.0f; }

  static Projection guess(const GridBlock& block, int first, float scale) {
    Projection best;
    for (int minus = 0; minus < 2; ++minus) {
      const float shift = minus != 0 ? -1.0f : 1.0f;
      alignas(64) float levels[32];
      guess_levels<8>(codebook(Book::kIQ1), block.plain.x + first, kGroup, scale, shift, levels);
      const Projection found = project_levels<kGroup>(block.plain.x + first, block.plain.w + first, levels);
      if (found.gain() > best.gain()) best = found;
    }
    return best;
  }

  static Eight search_eight(const Codebook& book, const float* values, const float* w, float scale, float shift) {
    float x[8];
    for (int j = 0; j < 8; ++j) x[j] = values[j] - scale * shift;
    return find_eight<8, false>(book, x, w, scale);
  }

  static void search(const GridBlock& block, int first, float scale, GridGroup& out) {
    constexpr int kEights = kGroup / 8;
    const Codebook& book = codebook(Book::kIQ1);
    Eight found[2][kEights];  // plus one, minus one
    float errors[2] = {0.0f, 0.0f};
    for (int e = 0; e < kEights; ++e) {
      for (int minus = 0; minus < 2; ++minus) {
        const int at = first + 8 * e;
        found[minus][e] = search_eight(book, block.plain.x + at, block.plain.w + at, scale, minus != 0 ? -1.0f : 1.0f);
        errors[minus] += found[minus][e].cost;
      }
    }
    out.error = 0.0f;
    for (int e = 0; e < kEights; ++e) {
      const bool minus = kShared ? errors[1] < errors[0] : found[1][e].cost < found[0][e].cost;
      const Eight& chosen = found[minus ? 1 : 0][e];
      out.error += chosen.cost;
      out.signs[e] = minus ? 1 : 0;
      out.entry[e] = static_cast<std::uint16_t>(chosen.entry[0]);
      for (int j = 0; j < 8; ++j) {
        out.level[8 * e + j] = static_cast<float>(book.value[chosen.entry[0]][j]) + (minus ? -1.0f : 1.0f);
      }
    }
  }
};

// Starts are laid around `typical` times the root mean square, the scale that suits a normal distribution.
constexpr float kStarts[] = {0.6f, 0.68f, 0.76f, 0.84f, 0.92f, 1.0f, 1.1f, 1.2f, 1.35f, 1.5f};

template <class Form>
Projection fit_grid_scale(const GridBlock& block, int first, float typical) {
  constexpr int V = Form::kValues / 16;
  const auto group = group_at<V>(block.plain, first);
  Vec16 squares = zero(), weights = zero();
  for (int v = 0; v < V; ++v) {
    squares = add(squares, mul(mul(group.x[v], group.x[v]), group.w[v]));
    weights = add(weights, group.w[v]);
  }
  const float rms = __builtin_sqrtf(reduce_add(squares) / reduce_add(weights));
  Projection best;
  if (!(rms > 0.0f)) return best;
  const auto start_at = [&](float scale) {
    const Projection found = Form::guess(block, first, scale);
    if (found.xl > 0.0f && found.gain() > best.gain()) best = found;
  };
  for (const float start : kStarts) start_at(rms * typical * start);
  start_at(rms / Form::lowest());  // values of one magnitude
  const float peak = signed_peak(group);
  start_at((peak < 0.0f ? -peak : peak) / Form::highest());  // an outlier
  // Guesses know no weights, so their scales are only near: what follows is exact.
  Projection exact;
  float scale = best.scale();
  for (int i = 0; i < 2 && scale > 0.0f; ++i) {
    GridGroup code;
    Form::search(block, first, scale, code);
    const Projection found = project_levels<Form::kValues>(block.plain.x + first, block.plain.w + first, code.level);
    if (!(found.xl > 0.0f && found.gain() > exact.gain())) break;
    exact = found;
    scale = exact.scale();
  }
  return exact;
}

// --- a block: x = d * (2 * k + 1) * level, k from 0 to kTopScale ---

template <class Form>
struct GridFit {
  static constexpr int kGroups = 256 / Form::kValues;
  Scale d;  // as the file has it: `part` of its value is the d above
  int k[kGroups];
  GridGroup group[kGroups];
};

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
bool try_grid_scale(const GridBlock& block, int first, float d, int k, int& best_k, GridGroup& best) {
  if (k < 0 || k > Form::kTopScale) return false;
  GridGroup code;
  Form::search(block, first, d * static_cast<float>(2 * k + 1), code);
  if (!(code.error < best.error)) return false;
  best = code;
  best_k = k;
  return true;
}

// The group's scale at k, or at the neighbour towards which the levels found there pull, and on while that helps.
template <class Form>
void improve_grid_group(const GridBlock& block, int first, float d, int& k, GridGroup& best) {
  best.error = 3e38f;
  try_grid_scale<Form>(block, first, d, k, k, best);
  const Projection sums = project_levels<Form::kValues>(block.plain.x + first, block.plain.w + first, best.level);
  const int step = sums.scale() > d * static_cast<float>(2 * k + 1) ? 1 : -1;
  while (try_grid_scale<Form>(block, first, d, k + step, k, best)) {
  }
}

// `part` is the fraction of the file's d that a level of 1 and a scale of 1 stand for.
template <class Form>
bool fit_grid_block(const float* values, const float* importance, float part, float typical, GridFit<Form>& out) {
  constexpr int kGroups = GridFit<Form>::kGroups;
  GridBlock block;
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
    const Projection fit = fit_grid_scale<Form>(block, Form::kValues * g, typical);
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
      const int first = Form::kValues * g;
      if (turn == 0) {
        const float near = clamp(0.5f * scales[g] * inverse_of(d) - 0.5f, 0.0f, static_cast<float>(Form::kTopScale));
        out.k[g] = static_cast<int>(round(near));
      }
      improve_grid_group<Form>(block, first, d, out.k[g], out.group[g]);
      const Projection sums =
          project_levels<Form::kValues>(block.plain.x + first, block.plain.w + first, out.group[g].level);
      const double s = 2.0 * out.k[g] + 1.0;
      xl += s * static_cast<double>(sums.xl);
      ll += s * s * static_cast<double>(sums.ll);
    }
    if (turn == 1 || !(xl > 0.0 && ll > 0.0)) break;
    out.d = to_scale(static_cast<float>(xl / ll) / part, block.plain);
  }
  const float longer = stretch(block.plain, out.d.value * part * static_cast<float>(xl));
  out.d = to_scale(out.d.value * longer, block.plain);
  return true;
}

// --- the blocks ---

inline void put_word_16(unsigned word, std::uint8_t* out) {
  out[0] = static_cast<std::uint8_t>(word & 255);
  out[1] = static_cast<std::uint8_t>(word >> 8 & 255);
}

inline void put_word_32(std::uint32_t word, std::uint8_t* out) {
  put_word_16(word & 0xffffu, out);
  put_word_16(word >> 16, out + 2);
}

inline void or_into(std::uint8_t& byte, int bits) {
  byte = static_cast<std::uint8_t>(byte | bits);
}

template <class Form>
void put_nibble_scales(const GridFit<Form>& fit, std::uint8_t* out) {
  for (int g = 0; g < GridFit<Form>::kGroups; ++g) or_into(out[g / 2], fit.k[g] << g % 2 * 4);
}

// Four sign indices (the eighth sign follows of their even number) and the scale.
inline std::uint32_t signs_and_scale(const GridGroup& group, int k) {
  std::uint32_t word = static_cast<std::uint32_t>(k) << 28;
  for (int e = 0; e < 4; ++e) word |= (group.signs[e] & 127u) << 7 * e;
  return word;
}

inline void encode_iq3_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ3_S*>(bytes);
  clear(bytes, sizeof(BlockIQ3_S));
  GridFit<SignedGrid<Book::kIQ3_S, 32, 4, false>> fit;
  if (!fit_grid_block(values, importance, 1.0f, 0.168f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int i = 0; i < 64; ++i) {
    const int entry = fit.group[i / 8].entry[i % 8];
    out.q[i] = static_cast<std::uint8_t>(entry & 255);
    or_into(out.high[i / 8], entry >> 8 << i % 8);
  }
  for (int e = 0; e < 32; ++e) out.signs[e] = fit.group[e / 4].signs[e % 4];
}

inline void encode_iq3_xxs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ3_XXS*>(bytes);
  clear(bytes, sizeof(BlockIQ3_XXS));
  GridFit<SignedGrid<Book::kIQ3_XXS, 32, 4, true>> fit;
  if (!fit_grid_block(values, importance, 0.25f, 0.042f, fit)) return;
  put_half(out.d, fit.d);
  for (int i = 0; i < 64; ++i) out.q[i] = static_cast<std::uint8_t>(fit.group[i / 8].entry[i % 8]);
  for (int g = 0; g < 8; ++g) put_word_32(signs_and_scale(fit.group[g], fit.k[g]), out.signs[g]);
}

inline void encode_iq2_xxs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_XXS*>(bytes);
  clear(bytes, sizeof(BlockIQ2_XXS));
  GridFit<SignedGrid<Book::kIQ2_XXS, 32, 8, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  for (int g = 0; g < 8; ++g) {
    for (int e = 0; e < 4; ++e) out.groups[g].q[e] = static_cast<std::uint8_t>(fit.group[g].entry[e]);
    put_word_32(signs_and_scale(fit.group[g], fit.k[g]), out.groups[g].signs);
  }
}

inline void encode_iq2_xs(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_XS*>(bytes);
  clear(bytes, sizeof(BlockIQ2_XS));
  GridFit<SignedGrid<Book::kIQ2_XS, 16, 8, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    put_word_16(group.entry[e % 2] | (group.signs[e % 2] & 127u) << 9, out.q[e]);
  }
}

inline void encode_iq2_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ2_S*>(bytes);
  clear(bytes, sizeof(BlockIQ2_S));
  GridFit<SignedGrid<Book::kIQ2_S, 16, 8, false>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.0437f, fit)) return;
  put_half(out.d, fit.d);
  put_nibble_scales(fit, out.scales);
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    const int entry = group.entry[e % 2];
    out.q[e] = static_cast<std::uint8_t>(entry & 255);
    out.signs[e] = group.signs[e % 2];
    or_into(out.high[e / 4], entry >> 8 << e % 4 * 2);
  }
}

inline void encode_iq1_s(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ1_S*>(bytes);
  clear(bytes, sizeof(BlockIQ1_S));
  GridFit<ShiftedGrid<32, true>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.153f, fit)) return;
  put_half(out.d, fit.d);
  for (int g = 0; g < 8; ++g) {
    const GridGroup& group = fit.group[g];
    unsigned word = static_cast<unsigned>(fit.k[g]) << 12 | static_cast<unsigned>(group.signs[0]) << 15;
    for (int e = 0; e < 4; ++e) {
      out.q[4 * g + e] = static_cast<std::uint8_t>(group.entry[e] & 255);
      word |= static_cast<unsigned>(group.entry[e] >> 8) << 3 * e;
    }
    put_word_16(word, out.high[g]);
  }
}

inline void encode_iq1_m(const float* values, const float* importance, std::uint8_t* bytes) {
  auto& out = *reinterpret_cast<BlockIQ1_M*>(bytes);
  clear(bytes, sizeof(BlockIQ1_M));
  GridFit<ShiftedGrid<16, false>> fit;
  if (!fit_grid_block(values, importance, 0.125f, 0.153f, fit)) return;
  for (int i = 0; i < 4; ++i) {
    unsigned word = (fit.d.half >> 4 * i & 15u) << 12;
    for (int g = 0; g < 4; ++g) word |= static_cast<unsigned>(fit.k[4 * i + g]) << 3 * g;
    put_word_16(word, out.scales[i]);
  }
  for (int e = 0; e < 32; ++e) {
    const GridGroup& group = fit.group[e / 2];
    out.q[e] = static_cast<std::uint8_t>(group.entry[e % 2] & 255);
    or_into(out.high[e / 2], (group.entry[e % 2] >> 8 | group.signs[e % 2] << 3) << e % 2 * 4);
  }
}

}  // namespace pronk::PRONK_ISA
