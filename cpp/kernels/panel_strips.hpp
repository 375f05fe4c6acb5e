// Many rows of x over a panel of kStripRows (16) weight rows, for an instruction set that has defined before:
//   kTileTokens               rows of x that a tile takes at most
//   PanelRow                  one value of each weight row of the panel
//   Panel256, Panel32         weight rows unpacked and transposed, one block or four blocks at a time
//   tile_256, tile_32         such a block against a few rows of x
//
// The panel is packed piece by piece (kPieceBlocks or kPieceUnits), and while a piece lies in the L1 cache all rows of
// x pass over it; between pieces the sums of each value wait in scratch memory.
#pragma once

namespace pronk::PRONK_ISA {

// run(tokens as a constant, first token) over all rows of x, in tiles of kTokens and one smaller.
template <int kTokens, class F>
inline void for_tiles(int first, int last, const F& run) {
  for (; first + kTokens <= last; first += kTokens) run.template operator()<kTokens>(first);
  if constexpr (kTokens > 1) for_tiles<kTokens - 1>(first, last, run);
}

inline int smaller(int a, int b) {
  return a < b ? a : b;
}

// `strip`: the first weight row of 16.
template <class Unpacker>
inline void strip_256(const MatmulTask& task, int strip) {
  using Panel = Panel256<Unpacker>;
  constexpr int kBlocks = Panel::kPieceBlocks;
  static_assert(kBlocks * sizeof(typename Panel::Block) <= kPieceBytes);
  const Activations& x = *task.x;
  const std::uint8_t* weights = task.weights + strip * task.row_bytes;
  const int rows = smaller(kStripRows, task.rows - strip);
  auto* panel = reinterpret_cast<typename Panel::Block*>(task.scratch);
  auto* values = reinterpret_cast<PanelRow*>(panel + kBlocks);
  PanelRow* mins = values + x.rows;
  __builtin_memset(static_cast<void*>(values), 0,
                   sizeof(PanelRow) * static_cast<unsigned>(x.rows) * (Unpacker::kMins ? 2 : 1));
  const int blocks = task.cols / 256;
  for (int first = 0; first < blocks; first += kBlocks) {
    const int count = smaller(kBlocks, blocks - first);
    for (int b = 0; b < count; ++b) Panel::pack(weights, task.row_bytes, rows, first + b, panel[b]);
    for_tiles<kTileTokens>(0, x.rows, [&]<int kTokens>(int t) {
      for (int b = 0; b < count; ++b) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 256 * (first + b);
        tile_256<Unpacker, kTokens>(panel[b], x, at, values + t, mins + t);
      }
    });
  }
  for (int t = 0; t < x.rows; ++t) {
    Vec16 y = load(values[t].lane);
    if constexpr (Unpacker::kMins) y = sub(y, load(mins[t].lane));
    store_partial(task.out + t * task.out_stride + strip, y, rows);
  }
}

// (v[0] + v[2]) + (v[1] + v[3]), the chains `next` rows apart.
inline Vec16 chain_sums(const PanelRow* v, int next) {
  return add(add(load(v[0].lane), load(v[2 * next].lane)), add(load(v[next].lane), load(v[3 * next].lane)));
}

template <class Unpacker>
inline void strip_32(const MatmulTask& task, int strip) {
  using Panel = Panel32<Unpacker>;
  constexpr int kUnits = Panel::kPieceUnits;
  static_assert(kUnits * sizeof(typename Panel::Block) <= kPieceBytes);
  const Activations& x = *task.x;
  const std::uint8_t* weights = task.weights + strip * task.row_bytes;
  const int rows = smaller(kStripRows, task.rows - strip);
  auto* panel = reinterpret_cast<typename Panel::Block*>(task.scratch);
  auto* values = reinterpret_cast<PanelRow*>(panel + kUnits);  // [chain][row of x]
  PanelRow* mins = values + 4 * x.rows;
  __builtin_memset(static_cast<void*>(values), 0,
                   sizeof(PanelRow) * static_cast<unsigned>(x.rows) * (Unpacker::kMins ? 8 : 4));
  const int blocks = task.cols / 32;
  for (int first = 0; first < blocks; first += 4 * kUnits) {
    const auto blocks_of = [&](int unit) { return smaller(4, blocks - first - 4 * unit); };
    const int count = smaller(kUnits, (blocks - first + 3) / 4);
    for (int u = 0; u < count; ++u) {
      Panel::pack(weights, task.row_bytes, rows, first + 4 * u, blocks_of(u), panel[u]);
    }
    for_tiles<kTileTokens>(0, x.rows, [&]<int kTokens>(int t) {
      for (int u = 0; u < count; ++u) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 32 * first + 128 * u;
        tile_32<Unpacker, kTokens>(panel[u], blocks_of(u), x, at, values + u * x.rows + t, mins + u * x.rows + t);
      }
    });
  }
  for (int t = 0; t < x.rows; ++t) {
    Vec16 y = chain_sums(values + t, x.rows);
    if constexpr (Unpacker::kMins) y = add(y, chain_sums(mins + t, x.rows));
    store_partial(task.out + t * task.out_stride + strip, y, rows);
  }
}

template <class Unpacker>
inline void many_rows(const MatmulTask& task) {
  for (int strip = 0; strip < task.rows; strip += kStripRows) {
    if constexpr (Unpacker::kValues == 256) {
      strip_256<Unpacker>(task, strip);
    } else {
      strip_32<Unpacker>(task, strip);
    }
  }
}

}  // namespace pronk::PRONK_ISA
