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
// pairs that share a key/value head, so that each key and value is read once for all of them. Only the scores of a q8_0
// cache are made otherwise: int8 queries, exact dot products for each 32 of E, and the chain runs along those.
#pragma once

#include "kernels/attention_pages.hpp"
#include "kernels/attention_tile.hpp"

namespace pronk::PRONK_ISA {

constexpr float kLowest =
    -3.402823466e+38f;  // the maximum of nothing: unlike minus infinity it can be subtracted from itself
// Up to here a piece's rows read keys and values from their pages; more of them share one unpacking to floats. So do
// rows of an odd width, because a test for it in the innermost loop costs more.
constexpr int kDirectRows = 2 * kTileRows;

template <class Pages>
inline void write_tokens(const AttentionArgs& args, std::int64_t first, std::int64_t last) {
  constexpr int kChunk = 64;  // whole blocks of a q8_0 row
  alignas(64) float rotated[kChunk];
  const std::int64_t width = args.width;
  for (std::int64_t token = first; token < last; ++token) {
    const std::int64_t page = args.slots[token] / args.block, row = args.slots[token] % args.block;
    const float* cos = args.cos + token * (width / 2);
    const float* sin = args.sin + token * (width / 2);
    for (std::int64_t head = 0; head < args.kv_heads; ++head) {
      const std::int64_t from = (token * args.kv_heads + head) * width;
      const std::int64_t group = group_number(args, page, head, row);
      for (std::int64_t begin = 0; begin < width; begin += kChunk) {
        const std::int64_t count = width - begin < kChunk ? width - begin : kChunk;
        rotate(args.k + from + begin, cos + begin / 2, sin + begin / 2, rotated, count);
        Pages::write(args, group, static_cast<int>(row % kKeyGroup), begin, count, rotated, args.v + from + begin);
      }
    }
  }
}

inline void write_pages(const AttentionArgs& args, std::int64_t first, std::int64_t last) {
  switch (args.kv_type) {
    case KvType::kF32:
      return write_tokens<FloatPages<float>>(args, first, last);
    case KvType::kF16:
      return write_tokens<FloatPages<std::uint16_t>>(args, first, last);
    case KvType::kQ8_0:
      return write_tokens<QuantizedPages>(args, first, last);
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

// Softmax and weighted sum of the segment's positions [begin, end) for all rows; the piece goes on to `limit`.
template <class Pages>
inline void attend_segment(const AttentionArgs& args, const AttentionPiece& piece, std::int64_t begin, std::int64_t end,
                           std::int64_t limit, int rows, AttendScratch& s) {
  const std::int32_t* positions = s.positions;
  const bool unpacked = rows > kDirectRows || args.width % 16 != 0;
  const int value_vecs = static_cast<int>(s.padded / 16);
  for (int row = 0; row < rows; ++row) s.maxima[row] = kLowest;
  for (std::int64_t i = 0; i < rows * 16; ++i) s.sums[i] = 0.0f;
  for (std::int64_t i = 0; i < rows * s.padded; ++i) s.weighted[i] = 0.0f;
  for (std::int64_t tile = begin; tile < end; tile += kKeyTile) {
    const int count = static_cast<int>(end - tile < kKeyTile ? end - tile : kKeyTile);
    const Pages pages(args, TileGroups(args, piece, tile, end, limit), s);
    if (unpacked) pages.unpack_tile(args, count, s);
    for (int row = 0; row < rows; row += kTileRows) {
      const int n = rows - row < kTileRows ? rows - row : kTileRows;
      std::int64_t visible = 0;  // keys that any of these rows sees: the rest would add exactly nothing
      for (int i = 0; i < n; ++i) {
        if (positions[row + i] + 1 - tile > visible) visible = positions[row + i] + 1 - tile;
      }
      if (visible == 0) continue;
      const int depth = static_cast<int>(visible < count ? visible : count), vecs = (depth + 15) / 16;
      alignas(64) float keep[16];
      pages.score(args, row, n, vecs, unpacked, s);
      weigh_scores(s.scores, n, vecs, tile, positions + row, s.maxima + row, s.sums + row * 16, keep);
      float* weighted = s.weighted + row * s.padded;
      if (unpacked) {
        product<kTileRows>(n, value_vecs, s.scores, kKeyTile, Unpacked{s.values, s.padded}, weighted, s.padded, depth,
                           keep);
      } else {
        product<kTileRows>(n, value_vecs, s.scores, kKeyTile, pages.values, weighted, s.padded, depth, keep);
      }
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

template <class Pages>
inline void attend_piece(const AttentionArgs& args, const AttentionPiece& piece, float* memory) {
  const std::int64_t group = args.heads / args.kv_heads, longest = args.positions[piece.last - 1];
  const int rows = static_cast<int>((piece.last - piece.first) * group);
  AttendScratch s;
  lay_out(args, rows, memory, &s);
  rotate_queries(args, piece, s);
  Pages::prepare(args, rows, s);
  for (int row = 0; row < rows; ++row) {
    s.all_maxima[row] = kLowest;
    s.all_sums[row] = 0.0f;
  }
  for (std::int64_t i = 0; i < rows * s.padded; ++i) s.all_weighted[i] = 0.0f;
  const std::int64_t last = std::int64_t{piece.segment_end} * kSegment, limit = last < longest + 1 ? last : longest + 1;
  for (std::int64_t segment = piece.segment; segment < piece.segment_end; ++segment) {
    const std::int64_t begin = segment * kSegment, end = begin + kSegment;
    attend_segment<Pages>(args, piece, begin, end < limit ? end : limit, limit, rows, s);
    for (int row = 0; row < rows; ++row) {
      const float sum = reduce_add(load(s.sums + row * 16));
      const float* weighted = s.weighted + row * s.padded;
      if (piece.partial == nullptr) {
        merge_row(s.maxima[row], sum, weighted, s.padded, s.all_maxima + row, s.all_sums + row,
                  s.all_weighted + row * s.padded);
        continue;
      }
      float* partial = piece.partial + ((segment - piece.segment) * rows + row) * partial_stride(args);
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
  switch (args.kv_type) {
    case KvType::kF32:
      return attend_piece<FloatPages<float>>(args, piece, scratch);
    case KvType::kF16:
      return attend_piece<FloatPages<std::uint16_t>>(args, piece, scratch);
    case KvType::kQ8_0:
      return attend_piece<QuantizedPages>(args, piece, scratch);
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
