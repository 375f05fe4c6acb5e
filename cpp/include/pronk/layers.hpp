// Everything of a layer that is not a matrix product: attention over the paged KV cache, norm, activation, residual.
//
// Sizes: T tokens in the batch, S sequences, D model width, H query heads, K key/value heads, G = H / K, E head width.
//
// Two levels. LayerKernels is what each instruction set provides: single-threaded pieces of work over raw pointers.
// The functions below it cut a batch into such pieces and give them to the thread pool. How they cut it never
// changes a bit of the result.
#pragma once

#include <cstdint>

namespace pronk {

// What keys and values are kept as. Q8_0: blocks of 32 along E, each an f16 scale and 32 int8, as in a GGUF file; E is
// then a multiple of 32.
enum class KvType { kF32, kF16, kQ8_0 };

// One layer's attention for a ragged batch. All arrays are C-contiguous and have been checked: no kernel checks again.
struct AttentionArgs {
  const float* q;                    // (T, H*E)
  const float* k;                    // (T, K*E)
  const float* v;                    // (T, K*E)
  const float* cos;                  // (T, E/2)
  const float* sin;                  // (T, E/2)
  const std::int32_t* positions;     // (T)
  const std::int32_t* slots;         // (T) page * block + row
  const std::int32_t* query_starts;  // (S + 1)
  const std::int32_t* context_lens;  // (S)
  const std::int32_t* block_tables;  // (S, table_width)
  void* key_pages;    // (blocks, K, block / 16) groups of 16 tokens, laid out as attention_pages.hpp says
  void* value_pages;  // likewise
  float* out;         // (T, H*E)
  KvType kv_type;     // of both pages
  std::int64_t tokens, sequences, table_width, heads, kv_heads, width, block;
};

// Positions of a context are cut into segments of this many. A query's softmax and sum run over each segment alone, and
// the segments are merged in order: so one long context can occupy many threads and still give one result.
constexpr int kSegment = 512;
// Keys that are unpacked and multiplied at a time. Divides kSegment; pages are multiples of kKeyGroup.
constexpr int kKeyTile = 64;
constexpr int kKeyGroup = 16;

// One piece of attention: the rows [first, last) of one sequence, all G query heads of one key/value head, and the
// segments [segment, segment_end) of the context.
struct AttentionPiece {
  std::int32_t sequence, kv_head, first, last, segment, segment_end;
  // Null: merge the segments and write rows of out. Otherwise each segment's result is left here for merge_segments:
  // for each row, the maximum, the sum, and E accumulators padded to whole vectors.
  float* partial;
};

struct LayerKernels {
  // out may be x.
  void (*rms_norm)(const float* x, const float* gain, float* out, std::int64_t rows, std::int64_t width, float eps);
  void (*silu_mul)(float* gate, const float* up, std::int64_t count);
  void (*add)(float* x, const float* y, std::int64_t count);
  // Rotates the keys of the tokens [first, last) and writes keys and values into their slots.
  void (*write_pages)(const AttentionArgs& args, std::int64_t first, std::int64_t last);
  // Floats of scratch, aligned to 64 bytes, that attend and merge_segments take for a piece of so many (token, head)
  // rows.
  std::int64_t (*attend_scratch)(const AttentionArgs& args, std::int64_t rows);
  // Floats of AttentionPiece::partial for one row.
  std::int64_t (*partial_stride)(const AttentionArgs& args);
  void (*attend)(const AttentionArgs& args, const AttentionPiece& piece, float* scratch);
  // Merges the results of `segments` segments that lie one after the other from piece.partial on, and writes their rows
  // of out.
  void (*merge_segments)(const AttentionArgs& args, const AttentionPiece& piece, int segments, float* scratch);
};

// Over the thread pool, where the work is worth it.
void rms_norm(const float* x, const float* gain, float* out, std::int64_t rows, std::int64_t width, float eps);
void silu_mul(float* gate, const float* up, std::int64_t count);  // gate = silu(gate) * up
void add(float* x, const float* y, std::int64_t count);           // x += y
void attention(const AttentionArgs& args);

}  // namespace pronk
