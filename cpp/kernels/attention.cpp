// How attention is cut into pieces and given to the threads. The pieces' arithmetic is in attention_impl.hpp; nothing
// here changes a bit of the result.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#include "kernels/scratch.hpp"
#include "pronk/kernels.hpp"
#include "pronk/layers.hpp"
#include "pronk/thread_pool.hpp"

namespace pronk {

namespace {

// (token, head) rows that share one unpacking of the keys and values: with 96, unpacking is a tenth of the work, and
// queries, sums and one tile still lie in L2.
constexpr std::int64_t kRows = 96;
// Up to here a piece is decoding, or nearly so: reading the context is what costs, and it may be cut at its segments.
constexpr std::int64_t kFewRows = 32;
// Pieces for each thread, so that one that is held up leaves little behind. Each begins with keys that nobody
// prefetched.
constexpr std::int64_t kPiecesEach = 8;
// Multiply-adds below which the other threads are not woken.
constexpr std::int64_t kWorthSharing = 1 << 18;

thread_local Scratch scratch;   // each worker's own
thread_local Scratch partials;  // the caller's: results of segments that several threads share out

struct Plan {
  std::vector<AttentionPiece> pieces;
  std::int64_t most_rows = 0;
  std::int64_t work = 0;      // multiply-adds
  std::int64_t segments = 0;  // of all pieces
};

std::int32_t segments_of(const AttentionArgs& args, const AttentionPiece& piece) {
  return args.positions[piece.last - 1] / kSegment + 1;
}

// Query tiles, each over its whole visible context.
Plan cut_queries(const AttentionArgs& args) {
  const std::int64_t group = args.heads / args.kv_heads, step = std::max<std::int64_t>(kRows / group, 1);
  Plan plan;
  for (std::int32_t sequence = 0; sequence < args.sequences; ++sequence) {
    const std::int32_t start = args.query_starts[sequence], end = args.query_starts[sequence + 1];
    for (std::int64_t first = start; first < end; first += step) {
      const auto last = static_cast<std::int32_t>(std::min<std::int64_t>(first + step, end));
      for (std::int32_t head = 0; head < args.kv_heads; ++head) {
        AttentionPiece piece{sequence, head, static_cast<std::int32_t>(first), last, 0, 0, nullptr};
        piece.segment_end = segments_of(args, piece);
        plan.pieces.push_back(piece);
        plan.segments += piece.segment_end;
      }
      const std::int64_t rows = (last - first) * group;
      plan.most_rows = std::max(plan.most_rows, rows);
      plan.work += 2 * rows * args.kv_heads * args.width * (args.positions[last - 1] + 1);
    }
  }
  return plan;
}

// The pieces of `whole` cut into pieces of `run` segments, in order, each with its place in `partials`.
std::vector<AttentionPiece> cut_contexts(const AttentionArgs& args, const Plan& whole, std::int32_t run) {
  const std::int64_t stride = kernels().layers.partial_stride(args), group = args.heads / args.kv_heads;
  std::int64_t rows = 0;
  for (const AttentionPiece& piece : whole.pieces) rows += (piece.last - piece.first) * group * piece.segment_end;
  float* partial = partials.get<float>(static_cast<std::size_t>(rows * stride));
  std::vector<AttentionPiece> pieces;
  for (AttentionPiece piece : whole.pieces) {
    const std::int32_t segments = piece.segment_end;
    for (piece.segment = 0; piece.segment < segments; piece.segment += run) {
      piece.segment_end = std::min(piece.segment + run, segments);
      piece.partial = partial;
      pieces.push_back(piece);
      partial += (piece.segment_end - piece.segment) * (piece.last - piece.first) * group * stride;
    }
  }
  return pieces;
}

// body(i) once for each i in [0, count): threads take the next one when they are free.
template <class Body>
void each(std::size_t count, bool shared, const Body& body) {
  if (!shared) {
    for (std::size_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<std::size_t> next{0};
  ThreadPool::instance().run([&](int, int) {
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  });
}

void write_all_pages(const AttentionArgs& args, bool shared) {
  const auto write = kernels().layers.write_pages;
  if (!shared || args.tokens < 16) return write(args, 0, args.tokens);
  ThreadPool::instance().run(
      [&](int part, int parts) { write(args, args.tokens * part / parts, args.tokens * (part + 1) / parts); });
}

}  // namespace

void attention(const AttentionArgs& args) {
  if (args.tokens == 0) return;
  const LayerKernels& layer = kernels().layers;
  Plan plan = cut_queries(args);
  const int threads = ThreadPool::instance().size();
  const bool shared = threads > 1 && plan.work >= kWorthSharing;
  write_all_pages(args, shared);
  const auto floats = static_cast<std::size_t>(layer.attend_scratch(args, plan.most_rows));

  const std::int64_t enough = kPiecesEach * threads, uncut = static_cast<std::int64_t>(plan.pieces.size());
  const bool few = shared && plan.most_rows <= kFewRows && uncut < enough && uncut < plan.segments;
  if (!few) {
    // The longest first, so that no thread is left alone with one at the end.
    std::stable_sort(plan.pieces.begin(), plan.pieces.end(), [&](const AttentionPiece& a, const AttentionPiece& b) {
      return std::int64_t{a.last - a.first} * args.positions[a.last - 1] >
             std::int64_t{b.last - b.first} * args.positions[b.last - 1];
    });
    each(plan.pieces.size(), shared,
         [&](std::size_t i) { layer.attend(args, plan.pieces[i], scratch.get<float>(floats)); });
    return;
  }
  const auto run = static_cast<std::int32_t>(std::max<std::int64_t>(plan.segments / enough, 1));
  const std::vector<AttentionPiece> pieces = cut_contexts(args, plan, run);
  each(pieces.size(), shared, [&](std::size_t i) { layer.attend(args, pieces[i], scratch.get<float>(floats)); });
  std::size_t i = 0;
  for (const AttentionPiece& whole : plan.pieces) {
    layer.merge_segments(args, pieces[i], whole.segment_end, scratch.get<float>(floats));
    i += static_cast<std::size_t>((whole.segment_end + run - 1) / run);
  }
}

}  // namespace pronk
