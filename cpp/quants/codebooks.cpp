// The grids, laid out for searching (encoders.hpp).
#include <array>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>

#include "quants/encoders.hpp"
#include "quants/grids.hpp"

namespace pronk {

namespace {

// The state of a part: of one value its level, of two values the first level + 3 * the second.
int part_state(const std::int8_t* values, const std::int8_t* levels, int count, bool pairs) {
  const auto level = [&](std::int8_t value) {
    int i = 0;
    while (i < count - 1 && levels[i] != value) ++i;
    return i;
  };
  return pairs ? level(values[0]) + 3 * level(values[1]) : level(values[0]);
}

int half_state(const std::int8_t* values, const std::int8_t* levels, int count, bool pairs) {
  const int step = pairs ? 2 : 1;
  return 16 * part_state(values + step, levels, count, pairs) + part_state(values, levels, count, pairs);
}

void find_nearest(Codebook& book, const std::int8_t* levels, int entries) {
  int points = 1;
  for (int j = 0; j < book.values; ++j) points *= book.levels;
  for (int p = 0; p < points; ++p) {
    int point[8] = {};
    for (int j = 0, rest = p; j < book.values; ++j, rest /= book.levels) point[j] = levels[rest % book.levels];
    int least = std::numeric_limits<int>::max();
    for (int i = 0; i < entries; ++i) {
      int distance = 0;
      for (int j = 0; j < 8; ++j) distance += (point[j] - book.value[i][j]) * (point[j] - book.value[i][j]);
      if (distance < least) {
        least = distance;
        book.nearest[p] = static_cast<std::uint16_t>(i);
      }
    }
  }
}

template <class Word, int kCount, std::size_t kLevels>
std::unique_ptr<Codebook> build(const Grid<Word, kCount>& grid, const std::array<std::int8_t, kLevels>& levels) {
  constexpr int kValues = sizeof(Word);
  constexpr bool kPairs = kValues == 8;
  constexpr int kLevelCount = static_cast<int>(kLevels);
  auto book = std::make_unique<Codebook>();
  std::memset(book.get(), 0, sizeof(Codebook));
  book->rows = kPairs ? 9 : 8;
  book->values = kValues;
  for (int state = 0; state < 16; ++state) {
    const bool used = state < book->rows;
    book->unused[state] = used ? 0.0f : 1e30f;
    book->level[0][state] = used ? static_cast<float>(levels[static_cast<std::size_t>(state % kLevelCount)]) : 0.0f;
    book->level[1][state] =
        used && kPairs ? static_cast<float>(levels[static_cast<std::size_t>(state / kLevelCount)]) : 0.0f;
  }
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < kValues; ++j) book->value[i][j] = static_cast<std::int8_t>(grid.entry[i] >> 8 * j & 255);
  }
  int at = 0;
  for (int state = 0; state < Codebook::kStates; ++state) {
    book->start[state] = static_cast<std::uint16_t>(at);
    for (int i = 0; i < kCount; ++i) {
      const std::int8_t* values = book->value[i];
      if (half_state(values, levels.data(), kLevelCount, kPairs) != state) continue;
      book->entry[at] = static_cast<std::uint16_t>(i);
      book->second[at] =
          static_cast<std::uint8_t>(half_state(values + kValues / 2, levels.data(), kLevelCount, kPairs));
      ++at;
    }
  }
  book->start[Codebook::kStates] = static_cast<std::uint16_t>(at);
  book->base = static_cast<float>(levels[0]);
  book->step = static_cast<float>(levels[kLevels - 1] - levels[0]) / static_cast<float>(kLevelCount - 1);
  book->levels = kLevelCount;
  find_nearest(*book, levels.data(), kCount);
  return book;
}

constexpr std::array<std::int8_t, 3> kLevelsIQ2{8, 25, 43};
constexpr std::array<std::int8_t, 3> kLevelsIQ1{-8, 0, 8};
constexpr std::array<std::int8_t, 8> kLevelsIQ3_XXS{4, 12, 20, 28, 36, 44, 52, 62};
constexpr std::array<std::int8_t, 8> kLevelsIQ3_S{1, 3, 5, 7, 9, 11, 13, 15};

}  // namespace

const Codebook& codebook(Book book) {
  switch (book) {
    case Book::kIQ3_S: {
      static const std::unique_ptr<Codebook> iq3_s = build(kGridIQ3_S, kLevelsIQ3_S);
      return *iq3_s;
    }
    case Book::kIQ3_XXS: {
      static const std::unique_ptr<Codebook> iq3_xxs = build(kGridIQ3_XXS, kLevelsIQ3_XXS);
      return *iq3_xxs;
    }
    case Book::kIQ2_S: {
      static const std::unique_ptr<Codebook> iq2_s = build(kGridIQ2_S, kLevelsIQ2);
      return *iq2_s;
    }
    case Book::kIQ2_XS: {
      static const std::unique_ptr<Codebook> iq2_xs = build(kGridIQ2_XS, kLevelsIQ2);
      return *iq2_xs;
    }
    case Book::kIQ2_XXS: {
      static const std::unique_ptr<Codebook> iq2_xxs = build(kGridIQ2_XXS, kLevelsIQ2);
      return *iq2_xxs;
    }
    default: {
      static const std::unique_ptr<Codebook> iq1 = build(kGridIQ1, kLevelsIQ1);
      return *iq1;
    }
  }
}

}  // namespace pronk
