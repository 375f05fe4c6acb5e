// What attention is made of whichever type the cache has: the small matrix product that stays in registers, the rotary
// embedding, and the memory that a piece works in.
#pragma once

#include "pronk/layers.hpp"

namespace pronk::PRONK_ISA {

constexpr int kTileGroups = kKeyTile / kKeyGroup;

static_assert(kKeyGroup == 16, "a group of keys is one Vec16 of scores");

inline int at_most_16(std::int64_t n) {
  return n < 16 ? static_cast<int>(n) : 16;
}

inline std::int64_t whole_vectors(std::int64_t n) {
  return (n + 15) / 16 * 16;
}

// The rotary embedding (Su et al. 2021) of interleaved pairs: (x0, x1) turned by the pair's angle.
inline void rotate(const float* x, const float* cos, const float* sin, float* out, std::int64_t width) {
  for (std::int64_t i = 0; i < width / 2; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    out[2 * i] = even * cos[i] - odd * sin[i];
    out[2 * i + 1] = even * sin[i] + odd * cos[i];
  }
}

// Columns of a product, as a tile's keys or values give them: vector first + i of row k is columns.row(k, first)[i].
// These lie in memory as floats.
struct Unpacked {
  struct Row {
    const float* start;
    Vec16 operator[](int i) const { return load(start + 16 * i); }
  };
  const float* start;
  std::int64_t stride;
  Row row(int k, int first) const { return {start + k * stride + 16 * first}; }
  void prefetch(int, int, int) const {}
};

// c[row] = c[row] * keep[row] + sum over k of a[row][k] * columns.row(k), for a tile that stays in registers; no keep:
// c starts at 0.
template <int ROWS, int VECS, class Columns>
inline void product_tile(const float* a, std::int64_t a_stride, const Columns& columns, int first, float* c,
                         std::int64_t c_stride, int depth, const float* keep) {
  c += 16 * first;
  Vec16 sums[ROWS][VECS];
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < VECS; ++i) {
      sums[row][i] = keep ? mul(load(c + row * c_stride + 16 * i), broadcast(keep[row])) : zero();
    }
  }
  for (int k = 0; k < depth; ++k) {
    columns.prefetch(k, first, VECS);
    const auto vectors = columns.row(k, first);
    Vec16 column[VECS];
    for (int i = 0; i < VECS; ++i) column[i] = vectors[i];
    for (int row = 0; row < ROWS; ++row) {
      const Vec16 factor = broadcast(a[row * a_stride + k]);
      for (int i = 0; i < VECS; ++i) sums[row][i] = fma(factor, column[i], sums[row][i]);
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < VECS; ++i) store(c + row * c_stride + 16 * i, sums[row][i]);
  }
}

// The same for `rows` (1 to ROWS) rows and any number of vectors.
template <int ROWS, class Columns>
inline void product(int rows, int vecs, const float* a, std::int64_t a_stride, const Columns& columns, float* c,
                    std::int64_t c_stride, int depth, const float* keep) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return product<ROWS - 1>(rows, vecs, a, a_stride, columns, c, c_stride, depth, keep);
  }
  int i = 0;
  for (; i + kTileVecs <= vecs; i += kTileVecs) {
    product_tile<ROWS, kTileVecs>(a, a_stride, columns, i, c, c_stride, depth, keep);
  }
  for (; i < vecs; ++i) product_tile<ROWS, 1>(a, a_stride, columns, i, c, c_stride, depth, keep);
}

template <class Columns>
inline void unpack(const Columns& columns, int depth, int vecs, float* out, std::int64_t stride) {
  for (int k = 0; k < depth; ++k, out += stride) {
    columns.prefetch(k, 0, vecs);
    const auto row = columns.row(k, 0);
    for (int i = 0; i < vecs; ++i) store(out + 16 * i, row[i]);
  }
}

// Where a piece keeps its numbers while it runs. `padded` is E rounded up to whole vectors.
struct AttendScratch {
  std::int64_t padded;
  float* queries;              // (rows, E) rotated, scaled by 1 / sqrt(E)
  std::int8_t* query_values;   // (rows, E) the same for a q8_0 cache, in blocks of 32,
  float* query_scales;         // (rows, E/32) their scales,
  std::int32_t* query_starts;  // (rows, E/32) and what dot_keys starts from
  float* value_scales;         // (E/32, kKeyTile) of one tile of a q8_0 cache
  float* keys;                 // (E, kKeyTile) one tile unpacked, a lane a key
  float* values;               // (kKeyTile, padded)
  float* scores;               // (kTileRows, kKeyTile)
  float* maxima;               // (rows) of this segment
  float* sums;                 // (rows, 16) sixteen lanes until the segment ends
  float* weighted;             // (rows, padded)
  float* all_maxima;           // (rows) of the segments so far
  float* all_sums;             // (rows)
  float* all_weighted;         // (rows, padded)
  std::int32_t* positions;     // (rows)
};

// Lays the arrays out from `base` on (from nowhere if it is null), and returns how many floats they take.
inline std::int64_t lay_out(const AttentionArgs& args, std::int64_t rows, float* base, AttendScratch* scratch) {
  const std::int64_t padded = whole_vectors(args.width), blocks = (args.width + 31) / 32;
  std::int64_t used = 0;
  auto take = [&](std::int64_t count) {
    float* start = base == nullptr ? nullptr : base + used;
    used += whole_vectors(count);
    return start;
  };
  scratch->padded = padded;
  scratch->queries = take(rows * args.width);
  scratch->query_values = reinterpret_cast<std::int8_t*>(take(rows * blocks * 8));
  scratch->query_scales = take(rows * blocks);
  scratch->query_starts = reinterpret_cast<std::int32_t*>(take(rows * blocks));
  scratch->value_scales = take(blocks * kKeyTile);
  scratch->keys = take(args.width * kKeyTile);
  scratch->values = take(kKeyTile * padded);
  scratch->scores = take(kTileRows * kKeyTile);
  scratch->maxima = take(rows);
  scratch->sums = take(rows * 16);
  scratch->weighted = take(rows * padded);
  scratch->all_maxima = take(rows);
  scratch->all_sums = take(rows);
  scratch->all_weighted = take(rows * padded);
  scratch->positions = reinterpret_cast<std::int32_t*>(take(rows));
  return used;
}

inline std::int64_t attend_scratch(const AttentionArgs& args, std::int64_t rows) {
  AttendScratch unused;
  return lay_out(args, rows, nullptr, &unused);
}

}  // namespace pronk::PRONK_ISA
