// How keys and values lie in their pages, and how a tile of them is written and read: FloatPages (f16 and f32) and
// QuantizedPages (q8_0).
//
// The unit is a group: sixteen tokens of one key/value head, which no page cuts. A key is written once and read for
// every token after it, so it lies as it is read: in the scores a lane is a key, in the sum of values an element of E.
//
//            keys                                            values
//   floats   (E, 16)                                         (16, E)
//   q8_0     (E/4, 16, 4) int8, then (E/32, 16) f16 scales   (16, E) int8, then (E/32, 16) f16 scales
//
// Lanes of keys past the end of a context hold whatever was there: weigh_scores hides them. Values past it are not
// read.
#pragma once

#include "kernels/attention_tile.hpp"
#include "kernels/quantize_impl.hpp"

namespace pronk::PRONK_ISA {

// The groups of a head in a page follow each other, then the heads, then the pages.
inline std::int64_t group_number(const AttentionArgs& args, std::int64_t page, std::int64_t head, std::int64_t row) {
  return ((page * args.kv_heads + head) * args.block + row) / kKeyGroup;
}

// The groups of one tile and of the one after it, which is prefetched while this one is computed with: pages lie
// anywhere, so the hardware does not know where the context goes on. Where a tile ends early its first group stands in.
struct TileGroups {
  std::int64_t now[kTileGroups], next[kTileGroups];

  // `end`: the keys that are read lie before it; `limit`: so do those that this piece reads later.
  TileGroups(const AttentionArgs& args, const AttentionPiece& piece, std::int64_t tile, std::int64_t end,
             std::int64_t limit) {
    const std::int32_t* table = args.block_tables + piece.sequence * args.table_width;
    auto find = [&](std::int64_t position) {
      return group_number(args, table[position / args.block], piece.kv_head, position % args.block);
    };
    for (int i = 0; i < kTileGroups; ++i) {
      const std::int64_t position = tile + i * kKeyGroup, later = position + kKeyTile;
      now[i] = position < end ? find(position) : now[0];
      next[i] = later < limit ? find(later) : now[i];
    }
  }
};

// A few lines at a time between computations, because the queue that they wait in is short.
inline void prefetch_bytes(const void* start, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(start) + i, 0, 2);
}

inline Vec16 load_element(const std::uint16_t* p) {
  return load_f16(p);
}
inline Vec16 load_element(const float* p) {
  return load(p);
}
inline Vec16 load_element(const std::uint16_t* p, int n) {
  return load_f16_partial(p, n);
}
inline Vec16 load_element(const float* p, int n) {
  return load_partial(p, n);
}
inline void store_element(std::uint16_t* p, const Vec16& x, int n) {
  store_f16_partial(p, x, n);
}
inline void store_element(float* p, const Vec16& x, int n) {
  store_partial(p, x, n);
}

template <class Element>
struct FloatPages {
  // Row e, vector i: element e of the keys of group i.
  struct Keys {
    struct Row {
      const Element* const* group;
      std::int64_t at;
      Vec16 operator[](int i) const { return load_element(group[i] + at); }
    };
    const Element *group[kTileGroups], *next[kTileGroups];
    Row row(int e, int first) const { return {group + first, 16 * e}; }
    void prefetch(int e, int first, int vecs) const {
      for (int i = first; i < first + vecs; ++i) __builtin_prefetch(next[i] + 16 * e, 0, 2);
    }
  };
  // Row k, vector i: elements 16 i and on of value k.
  struct Values {
    struct Row {
      const Element* start;
      Vec16 operator[](int i) const { return load_element(start + 16 * i); }
    };
    const Element *group[kTileGroups], *next[kTileGroups];
    std::int64_t width;
    Row row(int k, int first) const { return {group[k / 16] + k % 16 * width + 16 * first}; }
    void prefetch(int k, int first, int vecs) const {
      prefetch_bytes(next[k / 16] + k % 16 * width + 16 * first, 16 * vecs * static_cast<int>(sizeof(Element)));
    }
  };

  Keys keys;
  Values values;

  FloatPages(const AttentionArgs& args, const TileGroups& groups, const AttendScratch&) {
    const std::int64_t size = kKeyGroup * args.width;
    const auto *key_pages = static_cast<const Element*>(args.key_pages),
               *value_pages = static_cast<const Element*>(args.value_pages);
    values.width = args.width;
    for (int i = 0; i < kTileGroups; ++i) {
      keys.group[i] = key_pages + groups.now[i] * size;
      keys.next[i] = key_pages + groups.next[i] * size;
      values.group[i] = value_pages + groups.now[i] * size;
      values.next[i] = value_pages + groups.next[i] * size;
    }
  }

  // Elements [begin, begin + count) of a token's key and value, which are the group's row `lane`.
  static void write(const AttentionArgs& args, std::int64_t group, int lane, std::int64_t begin, std::int64_t count,
                    const float* key, const float* value) {
    Element* key_lane = static_cast<Element*>(args.key_pages) + (group * args.width + begin) * kKeyGroup + lane;
    Element* value_row = static_cast<Element*>(args.value_pages) + (group * kKeyGroup + lane) * args.width + begin;
    for (std::int64_t i = 0; i < count; i += 16) {
      const int n = at_most_16(count - i);
      Element row[16];
      store_element(row, load_partial(key + i, n), n);
      for (int e = 0; e < n; ++e) key_lane[(i + e) * kKeyGroup] = row[e];
      store_element(value_row + i, load_partial(value + i, n), n);
    }
  }

  static void prepare(const AttentionArgs&, int, AttendScratch&) {}

  // The tile's first `count` keys and values to floats.
  void unpack_tile(const AttentionArgs& args, int count, AttendScratch& s) const {
    const int width = static_cast<int>(args.width), whole = width / 16;
    unpack(keys, width, (count + 15) / 16, s.keys, kKeyTile);
    unpack(values, count, whole, s.values, s.padded);
    if (whole * 16 == width) return;
    for (int k = 0; k < count; ++k) {
      store(s.values + k * s.padded + 16 * whole, load_element(values.row(k, whole).start, width - 16 * whole));
    }
  }

  // Scores of `rows` rows from `row` on with the keys of the first `vecs` groups.
  void score(const AttentionArgs& args, int row, int rows, int vecs, bool unpacked, const AttendScratch& s) const {
    const float* queries = s.queries + row * args.width;
    const int depth = static_cast<int>(args.width);
    if (unpacked) {
      product<kTileRows>(rows, vecs, queries, args.width, Unpacked{s.keys, kKeyTile}, s.scores, kKeyTile, depth,
                         nullptr);
    } else {
      product<kTileRows>(rows, vecs, queries, args.width, keys, s.scores, kKeyTile, depth, nullptr);
    }
  }
};

// 32 values to q8_0 as files have it (tensors/codec.py): scale = the largest magnitude / 127, halves rounded away from
// zero. Returns the scale, not yet rounded to f16.
inline float quantize_q8_0(const float* x, std::int8_t* q) {
  std::uint32_t largest = 0;  // without their sign the bits of floats are ordered as the floats are
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t magnitude = float_bits(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float a;
  __builtin_memcpy(&a, &largest, 4);
  const bool finite = largest < 0x7f800000u;
  if (!finite || a < 1e-30f) {  // no f16 scale holds less; an infinity or a NaN makes all that sees it NaN
    __builtin_memset(q, 0, 32);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float scale = a / 127.0f, inverse = 1.0f / scale;
  for (int i = 0; i < 32; ++i) {
    const float scaled = x[i] * inverse;
    const int whole = static_cast<int>(scaled);
    q[i] = static_cast<std::int8_t>(whole + static_cast<int>(2.0f * (scaled - static_cast<float>(whole))));
  }
  return scale;
}

struct QuantizedPages {
  struct Values {
    struct Row {
      const std::int8_t* start;
      const float* scales;
      // Two vectors share a scale. q * scale fits a float whole: 7 bits and 11.
      Vec16 operator[](int i) const { return mul(load_int8(start + 16 * i), broadcast(scales[i / 2 * kKeyTile])); }
    };
    const std::int8_t *group[kTileGroups], *next[kTileGroups];
    const float* scales;  // (E/32, kKeyTile)
    std::int64_t width;
    Row row(int k, int first) const {
      return {group[k / 16] + k % 16 * width + 16 * first, scales + first / 2 * kKeyTile + k};
    }
    void prefetch(int k, int first, int vecs) const {
      prefetch_bytes(next[k / 16] + k % 16 * width + 16 * first, 16 * vecs);
    }
  };

  const std::int8_t *keys[kTileGroups], *next_keys[kTileGroups];
  Values values;

  QuantizedPages(const AttentionArgs& args, const TileGroups& groups, const AttendScratch& s) {
    const auto *key_pages = static_cast<const std::int8_t*>(args.key_pages),
               *value_pages = static_cast<const std::int8_t*>(args.value_pages);
    const std::int64_t size = group_bytes(args);
    values.width = args.width;
    values.scales = s.value_scales;
    for (int i = 0; i < kTileGroups; ++i) {
      keys[i] = key_pages + groups.now[i] * size;
      next_keys[i] = key_pages + groups.next[i] * size;
      values.group[i] = value_pages + groups.now[i] * size;
      values.next[i] = value_pages + groups.next[i] * size;
      prefetch_bytes(scales_of(args, values.next[i]), static_cast<int>(args.width));
      const std::uint16_t* scales = scales_of(args, values.group[i]);
      for (std::int64_t b = 0; b < args.width / 32; ++b) {
        store(s.value_scales + b * kKeyTile + 16 * i, load_f16(scales + 16 * b));
      }
    }
  }

  static std::int64_t group_bytes(const AttentionArgs& args) { return kKeyGroup * args.width / 32 * 34; }
  static const std::uint16_t* scales_of(const AttentionArgs& args, const std::int8_t* group) {
    return reinterpret_cast<const std::uint16_t*>(group + kKeyGroup * args.width);
  }
  static std::uint16_t* scales_of(const AttentionArgs& args, std::int8_t* group) {
    return reinterpret_cast<std::uint16_t*>(group + kKeyGroup * args.width);
  }

  static void write(const AttentionArgs& args, std::int64_t group, int lane, std::int64_t begin, std::int64_t count,
                    const float* key, const float* value) {
    auto* key_group = static_cast<std::int8_t*>(args.key_pages) + group * group_bytes(args);
    auto* value_group = static_cast<std::int8_t*>(args.value_pages) + group * group_bytes(args);
    for (std::int64_t i = 0; i < count; i += 32) {
      const std::int64_t at = begin + i, scale = at / 32 * kKeyGroup + lane;
      std::int8_t q[32];
      store_f16_partial(scales_of(args, key_group) + scale, broadcast(quantize_q8_0(key + i, q)), 1);
      for (int j = 0; j < 8; ++j) __builtin_memcpy(key_group + at * kKeyGroup + 64 * j + 4 * lane, q + 4 * j, 4);
      std::int8_t* row = value_group + lane * args.width + at;
      store_f16_partial(scales_of(args, value_group) + scale, broadcast(quantize_q8_0(value + i, row)), 1);
    }
  }

  // The queries to int8, once for the whole context.
  static void prepare(const AttentionArgs& args, int rows, AttendScratch& s) {
    for (std::int64_t b = 0; b < rows * args.width / 32; ++b) {
      std::int8_t* q = s.query_values + 32 * b;
      s.query_scales[b] = quantize_values<32>(s.queries + 32 * b, q);
      int sum = 0;
      for (int i = 0; i < 32; ++i) sum += q[i];
      s.query_starts[b] = -128 * sum;
    }
  }

  // Values only: keys are multiplied where they lie.
  void unpack_tile(const AttentionArgs& args, int count, AttendScratch& s) const {
    unpack(values, count, static_cast<int>(args.width / 16), s.values, s.padded);
  }

  void score(const AttentionArgs& args, int row, int rows, int vecs, bool, const AttendScratch& s) const {
    for (int i = 0; i < vecs; ++i) score_group<kTileRows>(args, row, rows, keys[i], next_keys[i], s, s.scores + 16 * i);
  }

  // A score is a chain of fused multiply-adds along the blocks of E; a block's dot product is exact.
  template <int ROWS>
  static void score_group(const AttentionArgs& args, int row, int rows, const std::int8_t* group,
                          const std::int8_t* next, const AttendScratch& s, float* scores) {
    if constexpr (ROWS > 1) {
      if (rows < ROWS) return score_group<ROWS - 1>(args, row, rows, group, next, s, scores);
    }
    const std::int64_t blocks = args.width / 32;
    const std::uint16_t* scales = scales_of(args, group);
    Vec16 sums[ROWS];
    for (int r = 0; r < ROWS; ++r) sums[r] = zero();
    for (std::int64_t b = 0; b < blocks; ++b) {
      prefetch_bytes(next + 512 * b, 512);
      __builtin_prefetch(scales_of(args, next) + 16 * b, 0, 2);
      Vec16 dots[ROWS];
      dot_keys<ROWS>(group + 512 * b, s.query_values + row * args.width + 32 * b, args.width,
                     s.query_starts + row * blocks + b, dots);
      const Vec16 scale = load_f16(scales + 16 * b);
      for (int r = 0; r < ROWS; ++r) {
        sums[r] = fma(dots[r], mul(scale, broadcast(s.query_scales[(row + r) * blocks + b])), sums[r]);
      }
    }
    for (int r = 0; r < ROWS; ++r) store(scores + r * kKeyTile, sums[r]);
  }
};

}  // namespace pronk::PRONK_ISA
