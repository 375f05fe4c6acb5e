// The grids, laid out for searching (encoders.hpp).
#include <algorithm>
#include <limits>
#include <memory>

#include "quants/encoders.hpp"
#include "quants/grids.hpp"

namespace pronk {

namespace {

template <class Word, int kCount>
std::unique_ptr<Codebook> build(const Grid<Word, kCount>& grid) {
  static_assert(kCount <= Codebook::kEntries && kCount % 16 == 0);
  auto book = std::make_unique<Codebook>();
  book->entries = kCount;
  book->lowest = std::numeric_limits<float>::max();
  book->highest = std::numeric_limits<float>::lowest();
  for (int i = 0; i < kCount; ++i) {
    for (int j = 0; j < static_cast<int>(sizeof(Word)); ++j) {
      const auto level = static_cast<float>(static_cast<std::int8_t>(grid.entry[i] >> 8 * j & 255));
      book->level[i / 16][j][i % 16] = level;
      book->lowest = std::min(book->lowest, level);
      book->highest = std::max(book->highest, level);
    }
  }
  return book;
}

}  // namespace

const Codebook& codebook(Book book) {
  switch (book) {
    case Book::kIQ3_S: {
      static const std::unique_ptr<Codebook> iq3_s = build(kGridIQ3_S);
      return *iq3_s;
    }
    case Book::kIQ3_XXS: {
      static const std::unique_ptr<Codebook> iq3_xxs = build(kGridIQ3_XXS);
      return *iq3_xxs;
    }
    case Book::kIQ2_S: {
      static const std::unique_ptr<Codebook> iq2_s = build(kGridIQ2_S);
      return *iq2_s;
    }
    case Book::kIQ2_XS: {
      static const std::unique_ptr<Codebook> iq2_xs = build(kGridIQ2_XS);
      return *iq2_xs;
    }
    case Book::kIQ2_XXS: {
      static const std::unique_ptr<Codebook> iq2_xxs = build(kGridIQ2_XXS);
      return *iq2_xxs;
    }
    default: {
      static const std::unique_ptr<Codebook> iq1 = build(kGridIQ1);
      return *iq1;
    }
  }
}

}  // namespace pronk
