// Attention over the paged KV cache, for whichever instruction set includes this file after its Vec16.
//
// The arithmetic of one query row is fixed, whatever else is computed beside it. Its context is cut into segments of
// kSegment positions and those into tiles of kKeyTile keys, always at the same positions. In a tile: scores (a chain of
// fused multiply-adds along E, one lane a key), their maximum, e^(score - running maximum), and the weighted sum of the
// values (a chain along the keys, one lane an element of E), the running sums scaled down when the maximum grows
// (online softmax: Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). Segments are then merged in their
// order.
//
// A key that a row may not see has the score minus infinity, so its weight is exactly 0 and nothing it touches changes:
// that is why decoding one token, and prefilling many in one tile, give equal bits. (A value that is itself infinite
// would turn 0 * value into NaN; then the sequence is lost anyway.)
//
// Both products are the same small matrix product: the lanes run over keys or over E, and rows are the (token, head)
// pairs that share a key/value head, so that each key and value is read and unpacked once for all of them.
#pragma once

#include "pronk/layers.hpp"

namespace pronk::PRONK_ISA {

constexpr int kTileGroups = kKeyTile / kKeyGroup;
constexpr float kLowest =
    -3.402823466e+38f;  // the maximum of nothing: unlike minus infinity it can be subtracted from itself

static_assert(kKeyGroup == 16, "a group of keys is one Vec16 of scores");

// c[row] = c[row] * keep[row] + sum over k of a[row][k] * b[k], for a tile that stays in registers; no keep: c starts
// at 0.
template <int ROWS, int VECS>
inline void product_tile(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c,
                         std::int64_t c_stride, int depth, const float* keep) {
  Vec16 sums[ROWS][VECS];
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < VECS; ++i) {
      sums[row][i] = keep ? mul(load(c + row * c_stride + 16 * i), broadcast(keep[row])) : zero();
    }
  }
  for (int k = 0; k < depth; ++k) {
    Vec16 columns[VECS];
    for (int i = 0; i < VECS; ++i) columns[i] = load(b + k * b_stride + 16 * i);
    for (int row = 0; row < ROWS; ++row) {
      const Vec16 factor = broadcast(a[row * a_stride + k]);
      for (int i = 0; i < VECS; ++i) sums[row][i] = fma(factor, columns[i], sums[row][i]);
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    for (int i = 0; i < VECS; ++i) store(c + row * c_stride + 16 * i, sums[row][i]);
  }
}

// The same for `rows` (1 to ROWS) rows and any number of vectors.
template <int ROWS>
inline void product(int rows, int vecs, const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride,
                    float* c, std::int64_t c_stride, int depth, const float* keep) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return product<ROWS - 1>(rows, vecs, a, a_stride, b, b_stride, c, c_stride, depth, keep);
  }
  int i = 0;
  for (; i + kTileVecs <= vecs; i += kTileVecs) {
    product_tile<ROWS, kTileVecs>(a, a_stride, b + 16 * i, b_stride, c + 16 * i, c_stride, depth, keep);
  }
  for (; i < vecs; ++i) product_tile<ROWS, 1>(a, a_stride, b + 16 * i, b_stride, c + 16 * i, c_stride, depth, keep);
}

// The rotary embedding (Su et al. 2021) of interleaved pairs: (x0, x1) turned by the pair's angle.
inline void rotate(const float* x, const float* cos, const float* sin, float* out, std::int64_t width) {
  for (std::int64_t i = 0; i < width / 2; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    out[2 * i] = even * cos[i] - odd * sin[i];
    out[2 * i + 1] = even * sin[i] + odd * cos[i];
  }
}

inline Vec16 load_element(const std::uint16_t* p) {
  return load_f16(p);
}
inline Vec16 load_element(const float* p) {
  return load(p);
}
inline Vec16 load_element(const std::uint16_t* p, int n) {
  return n == 16 ? load_f16(p) : load_f16_partial(p, n);
}
inline Vec16 load_element(const float* p, int n) {
  return n == 16 ? load(p) : load_partial(p, n);
}
inline void store_element(std::uint16_t* p, const Vec16& x, int n) {
  store_f16_partial(p, x, n);
}
inline void store_element(float* p, const Vec16& x, int n) {
  store_partial(p, x, n);
}

inline int at_most_16(std::int64_t n) {
  return n < 16 ? static_cast<int>(n) : 16;
}

template <class Element>
inline void write_tokens(const AttentionArgs& args, std::int64_t first, std::int64_t last) {
  constexpr int kChunk = 64;  // even, and whole vectors
  alignas(64) float rotated[kChunk];
  const std::int64_t width = args.width;
  for (std::int64_t token = first; token < last; ++token) {
    const std::int64_t page = args.slots[token] / args.block, row = args.slots[token] % args.block;
    const float* cos = args.cos + token * (width / 2);
    const float* sin = args.sin + token * (width / 2);
    for (std::int64_t head = 0; head < args.kv_heads; ++head) {
      const std::int64_t from = (token * args.kv_heads + head) * width;
      const std::int64_t to = ((page * args.kv_heads + head) * args.block + row) * width;
      Element* keys = static_cast<Element*>(args.key_pages) + to;
      Element* values = static_cast<Element*>(args.value_pages) + to;
      for (std::int64_t begin = 0; begin < width; begin += kChunk) {
        const std::int64_t count = width - begin < kChunk ? width - begin : kChunk;
        rotate(args.k + from + begin, cos + begin / 2, sin + begin / 2, rotated, count);
        for (std::int64_t i = 0; i < count; i += 16) {
          const int n = at_most_16(count - i);
          store_element(keys + begin + i, load_partial(rotated + i, n), n);
          store_element(values + begin + i, load_partial(args.v + from + begin + i, n), n);
        }
      }
    }
  }
}

inline void write_pages(const AttentionArgs& args, std::int64_t first, std::int64_t last) {
  if (args.half) {
    write_tokens<std::uint16_t>(args, first, last);
  } else {
    write_tokens<float>(args, first, last);
  }
}

// Where a piece keeps its numbers while it runs. `padded` is E rounded up to whole vectors.
struct AttendScratch {
  std::int64_t padded;
  float* queries;           // (rows, E) rotated, scaled by 1 / sqrt(E)
  float* keys;              // (E, kKeyTile) one tile, transposed
  float* values;            // (kKeyTile, padded)
  float* scores;            // (kTileRows, kKeyTile)
  float* maxima;            // (rows) of this segment
  float* sums;              // (rows, 16) sixteen lanes until the segment ends
  float* weighted;          // (rows, padded)
  float* all_maxima;        // (rows) of the segments so far
  float* all_sums;          // (rows)
  float* all_weighted;      // (rows, padded)
  std::int32_t* positions;  // (rows)
};

inline std::int64_t whole_vectors(std::int64_t n) {
  return (n + 15) / 16 * 16;
}

// Lays the arrays out from `base` on (from nowhere if it is null), and returns how many floats they take.
inline std::int64_t lay_out(const AttentionArgs& args, std::int64_t rows, float* base, AttendScratch* scratch) {
  const std::int64_t padded = whole_vectors(args.width);
  std::int64_t used = 0;
  auto take = [&](std::int64_t count) {
    float* start = base == nullptr ? nullptr : base + used;
    used += whole_vectors(count);
    return start;
  };
  scratch->padded = padded;
  scratch->queries = take(rows * args.width);
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

// Where the 16 keys (or values) from `position` on lie: pages are multiples of 16, so a group never crosses one.
template <class Element>
inline const Element* group_rows(const AttentionArgs& args, const AttentionPiece& piece, const void* pages,
                                 std::int64_t position) {
  const std::int64_t page = args.block_tables[piece.sequence * args.table_width + position / args.block];
  const std::int64_t row = (page * args.kv_heads + piece.kv_head) * args.block + position % args.block;
  return static_cast<const Element*>(pages) + row * args.width;
}

// Asks for 16 * n elements of a tile further on. Pages lie anywhere, so the hardware does not know where the context
// goes on; and a few lines at a time between computations, because the queue that they wait in is short.
template <class Element>
inline void prefetch_square(const Element* elements, int n) {
  const char* bytes = reinterpret_cast<const char*>(elements);
  const int size = kKeyGroup * n * static_cast<int>(sizeof(Element));
  for (int i = 0; i < size; i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// The keys of one tile that lie before `end`, transposed so that a lane is a key. Lanes past the last key are zero, not
// what lies there.
template <class Element>
inline void unpack_keys(const AttentionArgs& args, const AttentionPiece& piece, std::int64_t tile, std::int64_t end,
                        float* keys) {
  for (int group = 0; group < kTileGroups; ++group) {
    const std::int64_t position = tile + group * kKeyGroup;
    if (position >= end) return;
    const std::int64_t next = position + kKeyTile < end ? position + kKeyTile : position;
    const Element* next_keys = group_rows<Element>(args, piece, args.key_pages, next);
    const Element* next_values = group_rows<Element>(args, piece, args.value_pages, next);
    const Element* rows = group_rows<Element>(args, piece, args.key_pages, position);
    const int valid = at_most_16(end - position);
    for (std::int64_t e = 0; e < args.width; e += 16) {
      const int n = at_most_16(args.width - e);
      prefetch_square(next_keys + e * kKeyGroup, n);
      prefetch_square(next_values + e * kKeyGroup, n);
      Vec16 square[16];
      if (n == 16 && valid == 16) {
        for (int i = 0; i < 16; ++i) square[i] = load_element(rows + i * args.width + e);
      } else {
        for (int i = 0; i < 16; ++i) square[i] = i < valid ? load_element(rows + i * args.width + e, n) : zero();
      }
      transpose16(square);
      for (int i = 0; i < n; ++i) store(keys + (e + i) * kKeyTile + group * 16, square[i]);
    }
  }
}

template <class Element>
inline void unpack_values(const AttentionArgs& args, const AttentionPiece& piece, std::int64_t tile, std::int64_t end,
                          float* values) {
  const std::int64_t padded = whole_vectors(args.width), whole = args.width / 16 * 16;
  for (std::int64_t position = tile; position < tile + kKeyTile && position < end; position += kKeyGroup) {
    const Element* row = group_rows<Element>(args, piece, args.value_pages, position);
    for (int i = at_most_16(end - position); i > 0; --i, row += args.width, values += padded) {
      for (std::int64_t e = 0; e < whole; e += 16) store(values + e, load_element(row + e));
      if (whole < args.width) store(values + whole, load_element(row + whole, static_cast<int>(args.width - whole)));
    }
  }
}

inline void rotate_queries(const AttentionArgs& args, const AttentionPiece& piece, AttendScratch& s) {
  const std::int64_t width = args.width, group = args.heads / args.kv_heads;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
  std::int64_t row = 0;
  for (std::int64_t token = piece.first; token < piece.last; ++token) {
    for (std::int64_t g = 0; g < group; ++g, ++row) {
      const float* q = args.q + (token * args.heads + piece.kv_head * group + g) * width;
      float* out = s.queries + row * width;
      rotate(q, args.cos + token * (width / 2), args.sin + token * (width / 2), out, width);
      for (std::int64_t e = 0; e < width; ++e) out[e] *= scale;
      s.positions[row] = args.positions[token];
    }
  }
}

// Scores -> weights e^(score - maximum), for `rows` rows of one tile that starts at `tile`. Updates the rows' maxima
// and sums; keep[row] is what earlier sums must be multiplied with.
inline void weigh_scores(float* scores, int rows, int vecs, std::int64_t tile, const std::int32_t* positions,
                         float* maxima, float* sums, float* keep) {
  const Vec16 hidden = broadcast(-__builtin_inff());
  alignas(64) float grown[16];
  for (int row = 0; row < rows; ++row) {
    float* score = scores + row * kKeyTile;
    const std::int64_t visible = positions[row] + 1 - tile;
    Vec16 largest = hidden;
    for (int i = 0; i < vecs; ++i) {
      Vec16 x = load(score + 16 * i);
      if (const std::int64_t n = visible - 16 * i; n < 16) {
        x = select(first(n < 0 ? 0 : static_cast<int>(n)), x, hidden);
        store(score + 16 * i, x);
      }
      largest = max(largest, x);
    }
    const float tile_maximum = reduce_max(largest);
    grown[row] = tile_maximum > maxima[row] ? tile_maximum : maxima[row];
  }
  store_partial(keep, exp(sub(load_partial(maxima, rows), load_partial(grown, rows))), rows);
  for (int row = 0; row < rows; ++row) {
    float* score = scores + row * kKeyTile;
    const Vec16 maximum = broadcast(grown[row]);
    Vec16 weights[kTileGroups];
    for (int i = 0; i < kTileGroups; ++i) weights[i] = i < vecs ? exp(sub(load(score + 16 * i), maximum)) : zero();
    for (int i = 0; i < vecs; ++i) store(score + 16 * i, weights[i]);
    const Vec16 total = add(add(weights[0], weights[1]), add(weights[2], weights[3]));
    store(sums + row * 16, fma(load(sums + row * 16), broadcast(keep[row]), total));
    maxima[row] = grown[row];
  }
}
static_assert(kTileGroups == 4, "weigh_scores adds four vectors of weights");

// Softmax and weighted sum of the segment's positions [begin, end) for all rows.
template <class Element>
inline void attend_segment(const AttentionArgs& args, const AttentionPiece& piece, std::int64_t begin, std::int64_t end,
                           int rows, AttendScratch& s) {
  const std::int32_t* positions = s.positions;
  for (int row = 0; row < rows; ++row) s.maxima[row] = kLowest;
  for (std::int64_t i = 0; i < rows * 16; ++i) s.sums[i] = 0.0f;
  for (std::int64_t i = 0; i < rows * s.padded; ++i) s.weighted[i] = 0.0f;
  for (std::int64_t tile = begin; tile < end; tile += kKeyTile) {
    const int count = static_cast<int>(end - tile < kKeyTile ? end - tile : kKeyTile);
    unpack_keys<Element>(args, piece, tile, end, s.keys);
    unpack_values<Element>(args, piece, tile, end, s.values);
    for (int row = 0; row < rows; row += kTileRows) {
      const int n = rows - row < kTileRows ? rows - row : kTileRows;
      std::int64_t visible = 0;  // keys that any of these rows sees: the rest would add exactly nothing
      for (int i = 0; i < n; ++i) {
        if (positions[row + i] + 1 - tile > visible) visible = positions[row + i] + 1 - tile;
      }
      if (visible == 0) continue;
      const int depth = static_cast<int>(visible < count ? visible : count), vecs = (depth + 15) / 16;
      alignas(64) float keep[16];
      product<kTileRows>(n, vecs, s.queries + row * args.width, args.width, s.keys, kKeyTile, s.scores, kKeyTile,
                         static_cast<int>(args.width), nullptr);
      weigh_scores(s.scores, n, vecs, tile, positions + row, s.maxima + row, s.sums + row * 16, keep);
      product<kTileRows>(n, static_cast<int>(s.padded / 16), s.scores, kKeyTile, s.values, s.padded,
                         s.weighted + row * s.padded, s.padded, depth, keep);
    }
  }
}

// Adds one segment's (maximum, sum, weighted) of one row to what the segments before it gave.
inline void merge_row(float maximum, float sum, const float* weighted, std::int64_t padded, float* all_maximum,
                      float* all_sum, float* all_weighted) {
  const float grown = maximum > *all_maximum ? maximum : *all_maximum;
  alignas(64) float factors[16] = {*all_maximum - grown, maximum - grown};
  store(factors, exp(load(factors)));
  const Vec16 keep = broadcast(factors[0]), take = broadcast(factors[1]);
  for (std::int64_t e = 0; e < padded; e += 16) {
    store(all_weighted + e, fma(load(all_weighted + e), keep, mul(load(weighted + e), take)));
  }
  *all_sum = *all_sum * factors[0] + sum * factors[1];
  *all_maximum = grown;
}

inline void write_row(const AttentionArgs& args, std::int64_t token, std::int64_t head, const float* weighted,
                      float sum) {
  float* out = args.out + (token * args.heads + head) * args.width;
  const Vec16 divisor = broadcast(sum);
  for (std::int64_t e = 0; e < args.width; e += 16) {
    store_partial(out + e, div(load(weighted + e), divisor), at_most_16(args.width - e));
  }
}

// A row of AttentionPiece::partial: the maximum, the sum, then from the next vector on the weighted values.
inline std::int64_t partial_stride(const AttentionArgs& args) {
  return 16 + whole_vectors(args.width);
}

template <class Element>
inline void attend_piece(const AttentionArgs& args, const AttentionPiece& piece, float* memory) {
  const std::int64_t group = args.heads / args.kv_heads, longest = args.positions[piece.last - 1];
  const int rows = static_cast<int>((piece.last - piece.first) * group);
  AttendScratch s;
  lay_out(args, rows, memory, &s);
  rotate_queries(args, piece, s);
  for (int row = 0; row < rows; ++row) {
    s.all_maxima[row] = kLowest;
    s.all_sums[row] = 0.0f;
  }
  for (std::int64_t i = 0; i < rows * s.padded; ++i) s.all_weighted[i] = 0.0f;
  for (std::int64_t segment = piece.segment; segment < piece.segment_end; ++segment) {
    const std::int64_t begin = segment * kSegment, end = begin + kSegment;
    attend_segment<Element>(args, piece, begin, end < longest + 1 ? end : longest + 1, rows, s);
    for (int row = 0; row < rows; ++row) {
      const float sum = reduce_add(load(s.sums + row * 16));
      const float* weighted = s.weighted + row * s.padded;
      if (piece.partial == nullptr) {
        merge_row(s.maxima[row], sum, weighted, s.padded, s.all_maxima + row, s.all_sums + row,
                  s.all_weighted + row * s.padded);
        continue;
      }
      float* partial = piece.partial + row * partial_stride(args);
      partial[0] = s.maxima[row];
      partial[1] = sum;
      for (std::int64_t e = 0; e < s.padded; e += 16) store(partial + 16 + e, load(weighted + e));
    }
  }
  if (piece.partial != nullptr) return;
  for (int row = 0; row < rows; ++row) {
    write_row(args, piece.first + row / group, piece.kv_head * group + row % group, s.all_weighted + row * s.padded,
              s.all_sums[row]);
  }
}

inline void attend(const AttentionArgs& args, const AttentionPiece& piece, float* scratch) {
  if (args.half) {
    attend_piece<std::uint16_t>(args, piece, scratch);
  } else {
    attend_piece<float>(args, piece, scratch);
  }
}

inline void merge_segments(const AttentionArgs& args, const AttentionPiece& piece, int segments, float* scratch) {
  const std::int64_t group = args.heads / args.kv_heads, stride = partial_stride(args), padded = stride - 16;
  const std::int64_t rows = (piece.last - piece.first) * group;
  for (std::int64_t row = 0; row < rows; ++row) {
    float maximum = kLowest, sum = 0.0f;
    for (std::int64_t e = 0; e < padded; e += 16) store(scratch + e, zero());
    for (int segment = 0; segment < segments; ++segment) {
      const float* partial = piece.partial + (segment * rows + row) * stride;
      merge_row(partial[0], partial[1], partial + 16, padded, &maximum, &sum, scratch);
    }
    write_row(args, piece.first + row / group, piece.kv_head * group + row % group, scratch, sum);
  }
}

inline constexpr LayerKernels layer_kernels() {
  return {rms_norm, silu_mul, add_in_place, write_pages, attend_scratch, partial_stride, attend, merge_segments};
}

}  // namespace pronk::PRONK_ISA
