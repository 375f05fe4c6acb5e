// Many rows of x: register tiles of 6 rows of x by 32 weight rows over a panel. A lane is a weight row; four bytes of x
// are broadcast to all lanes, and vpdpbusd adds four products in each. Its unsigned side is x plus 128: what that adds
// is the same for all rows of x, so the accumulators start at it, by a load.
//
// The panel is packed piece by piece (512 values of k), and while a piece lies in the L1 cache all rows of x pass over
// it; between pieces the sums of each value wait in scratch memory.
#pragma once

#include "arch/avx512_panel.hpp"

namespace pronk::avx512 {

constexpr int kTileTokens = 6;  // 12 + 12 accumulators, 2 weights, 1 broadcast of 32 registers

// 32 floats: one value of each weight row of the panel.
struct alignas(64) PanelRow {
  float lane[32];
};

// Four bytes (two int16, ...) at p, in every lane.
inline __m512i broadcast_word(const void* p) {
  return _mm512_set1_epi32(static_cast<int>(load_u32(p)));
}

// Or GCC loads them anew for each product where there are few: a tile of three rows took as long as one of six.
inline void in_registers(__m512i& a, __m512i& b) {
#if defined(__GNUC__)
  __asm__("" : "+v"(a), "+v"(b));
#endif
}

// c[t] += the products of words * 4 values of k.
template <int kTokens>
inline __attribute__((always_inline)) void add_words(const std::int8_t* values, const std::uint8_t* a,
                                                     std::int64_t stride, int words, __m512i (&c)[kTokens][2]) {
#pragma GCC unroll 8
  for (int word = 0; word < words; ++word) {
    __m512i left = _mm512_load_si512(values + 128 * word), right = _mm512_load_si512(values + 128 * word + 64);
    in_registers(left, right);
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      const __m512i four = broadcast_word(a + t * stride + 4 * word);
      c[t][0] = _mm512_dpbusd_epi32(c[t][0], four, left);
      c[t][1] = _mm512_dpbusd_epi32(c[t][1], four, right);
    }
  }
}

// Adds pairs[kPairs] times the sums over groups of x.
template <int kPairs, int kTokens>
inline __attribute__((always_inline)) void add_pairs(const std::int32_t (*pairs)[32], const std::int16_t* sums,
                                                     std::int64_t stride, __m512i (&c)[kTokens][2]) {
  for (int pair = 0; pair < kPairs; ++pair) {
    const __m512i left = _mm512_load_si512(pairs[pair]), right = _mm512_load_si512(pairs[pair] + 16);
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      const __m512i two = broadcast_word(sums + t * stride + 2 * pair);
      c[t][0] = _mm512_dpwssd_epi32(c[t][0], left, two);
      c[t][1] = _mm512_dpwssd_epi32(c[t][1], right, two);
    }
  }
}

// sums[t] = fma(float(c[t]), factor * scale of row t's block, sums[t])
template <int kTokens>
inline __attribute__((always_inline)) void add_scaled(const __m512i (&c)[kTokens][2], const float* factor,
                                                      const float* scale, std::int64_t stride, PanelRow* sums) {
  const __m512 left = _mm512_load_ps(factor), right = _mm512_load_ps(factor + 16);
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) {
    const __m512 s = _mm512_set1_ps(scale[t * stride]);
    float* sum = sums[t].lane;
    _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[t][0]), _mm512_mul_ps(left, s), _mm512_load_ps(sum)));
    _mm512_store_ps(sum + 16,
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[t][1]), _mm512_mul_ps(right, s), _mm512_load_ps(sum + 16)));
  }
}

template <int kTokens>
inline __attribute__((always_inline)) void set_starts(const std::int32_t* starts, __m512i (&c)[kTokens][2]) {
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) {
    c[t][0] = _mm512_load_si512(starts);
    c[t][1] = _mm512_load_si512(starts + 16);
  }
}

template <int kTokens>
inline __attribute__((always_inline)) void set_zero(__m512i (&c)[kTokens][2]) {
  for (int t = 0; t < kTokens; ++t) c[t][0] = c[t][1] = _mm512_setzero_si512();
}

// total[t] += scale * (sum of (u - centre) * a) over the slices of a block; the sums of a slice fit int16.
template <class Unpacker, int kTokens>
inline __attribute__((always_inline)) void add_slices(const typename Panel256<Unpacker>::Block& panel,
                                                      const Activations& x, std::int64_t at,
                                                      __m512i (&total)[kTokens][2]) {
  using Panel = Panel256<Unpacker>;
  constexpr int kSlice = Unpacker::kSlice;
  const std::uint8_t* a = x.int8.biased + at;
  for (int s = 0; s < Panel::kSlices; ++s) {
    __m512i c[kTokens][2];
    set_starts(panel.starts[s], c);
    add_words<kTokens>(panel.values + 32 * kSlice * s, a + kSlice * s, x.stride, kSlice / 4, c);
    const std::int32_t* scales = panel.scales[s * kSlice / Panel::kGroup];
    const __m512i left = _mm512_load_si512(scales), right = _mm512_load_si512(scales + 16);
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      total[t][0] = _mm512_dpwssd_epi32(total[t][0], c[t][0], left);
      total[t][1] = _mm512_dpwssd_epi32(total[t][1], c[t][1], right);
    }
  }
}

// The same where they do not fit: vpmulld applies the scale, three instructions in place of one.
template <class Unpacker, int kTokens>
inline __attribute__((always_inline)) void add_wide_slices(const typename Panel256<Unpacker>::Block& panel,
                                                           const Activations& x, std::int64_t at,
                                                           __m512i (&total)[kTokens][2]) {
  constexpr int kSlice = Unpacker::kSlice;
  const std::uint8_t* a = x.int8.biased + at;
  for (int s = 0; s < Panel256<Unpacker>::kSlices; ++s) {
    __m512i c[kTokens][2];
    set_starts(panel.starts[s], c);
    add_words<kTokens>(panel.values + 32 * kSlice * s, a + kSlice * s, x.stride, kSlice / 4, c);
    const std::int32_t* scales = panel.scales[s * kSlice / Panel256<Unpacker>::kGroup];
    const __m512i left = _mm512_load_si512(scales), right = _mm512_load_si512(scales + 16);
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      total[t][0] = _mm512_add_epi32(total[t][0], _mm512_mullo_epi32(c[t][0], left));
      total[t][1] = _mm512_add_epi32(total[t][1], _mm512_mullo_epi32(c[t][1], right));
    }
  }
}

// One block of 256 values against kTokens rows of x, `at` values into the int8 form. Inlined, GCC runs out of registers
// and keeps totals on the stack: Q6_K took half as long again.
template <class Unpacker, int kTokens>
[[gnu::noinline]] void tile_256(const typename Panel256<Unpacker>::Block& panel, const Activations& x, std::int64_t at,
                                PanelRow* values, PanelRow* mins) {
  using Panel = Panel256<Unpacker>;
  const std::int64_t stride = x.stride;
  __m512i total[kTokens][2];
  set_zero(total);
  if constexpr (Panel::kWide) {
    add_wide_slices<Unpacker, kTokens>(panel, x, at, total);
  } else {
    add_slices<Unpacker, kTokens>(panel, x, at, total);
  }
  const float* scale = x.int8.scale + at / 256;
  if constexpr (Panel::kCorrection != 0) {
    add_pairs<4, kTokens>(panel.corrections, x.int8.sums32 + at / 32, stride / 32, total);
  }
  add_scaled<kTokens>(total, panel.d, scale, stride / 256, values);
  if constexpr (Unpacker::kMins) {
    constexpr int kGroup = min_group<Unpacker>;
    const std::int16_t* sums = (kGroup == 32 ? x.int8.sums32 : x.int8.sums16) + at / kGroup;
    set_zero(total);
    add_pairs<Panel::kMinPairs, kTokens>(panel.mins, sums, stride / kGroup, total);
    add_scaled<kTokens>(total, panel.dmin, scale, stride / 256, mins);
  }
}

// Four blocks of 32 values, which belong to one chain.
template <class Unpacker, int kTokens>
[[gnu::noinline]] void tile_32(const typename Panel32<Unpacker>::Block& panel, const Activations& x, std::int64_t at,
                               PanelRow* values, PanelRow* mins) {
  const std::int64_t stride = x.stride, block_stride = stride / 32;
  const std::int64_t place = at / 32;
  __m512 sums[kTokens][2];
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) {
    sums[t][0] = _mm512_load_ps(values[t].lane);
    sums[t][1] = _mm512_load_ps(values[t].lane + 16);
  }
  for (int b = 0; b < 4; ++b) {
    __m512i c[kTokens][2];
    set_starts(panel.starts[b], c);
    add_words<kTokens>(panel.values + 1024 * b, x.int8.biased + at + 32 * b, stride, 8, c);
    const __m512 left = _mm512_load_ps(panel.d[b]), right = _mm512_load_ps(panel.d[b] + 16);
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      const __m512 s = _mm512_set1_ps(x.int8.scale[t * block_stride + place + b]);
      sums[t][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[t][0]), _mm512_mul_ps(left, s), sums[t][0]);
      sums[t][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[t][1]), _mm512_mul_ps(right, s), sums[t][1]);
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) {
    _mm512_store_ps(values[t].lane, sums[t][0]);
    _mm512_store_ps(values[t].lane + 16, sums[t][1]);
  }
  if constexpr (Unpacker::kMins) {
    for (int t = 0; t < kTokens; ++t) {
      __m512 left = _mm512_load_ps(mins[t].lane), right = _mm512_load_ps(mins[t].lane + 16);
      for (int b = 0; b < 4; ++b) {
        const __m512 s = _mm512_set1_ps(x.int8.scaled_sum[t * block_stride + place + b]);
        left = _mm512_fmadd_ps(_mm512_load_ps(panel.m[b]), s, left);
        right = _mm512_fmadd_ps(_mm512_load_ps(panel.m[b] + 16), s, right);
      }
      _mm512_store_ps(mins[t].lane, left);
      _mm512_store_ps(mins[t].lane + 16, right);
    }
  }
}

// Half i of the panel's 32 results, as far as there are rows.
inline void store_rows(float* out, int i, int rows, __m512 y) {
  const int count = rows - 16 * i;
  if (count > 0) _mm512_mask_storeu_ps(out + 16 * i, count >= 16 ? 0xffff : (1u << count) - 1, y);
}

// run(tokens as a constant, first token) over all rows of x, in tiles of kTileTokens and one smaller.
template <class F>
inline void for_tiles(int tokens, const F& run) {
  int t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens) run.template operator()<kTileTokens>(t);
  switch (tokens - t) {
    case 1:
      run.template operator()<1>(t);
      break;
    case 2:
      run.template operator()<2>(t);
      break;
    case 3:
      run.template operator()<3>(t);
      break;
    case 4:
      run.template operator()<4>(t);
      break;
    case 5:
      run.template operator()<5>(t);
      break;
    default:
      break;
  }
}

template <class Unpacker>
inline void many_rows_256(const MatmulTask& task) {
  using Panel = Panel256<Unpacker>;
  constexpr int kBlocks = Panel::kPieceBlocks;
  static_assert(kBlocks * sizeof(typename Panel::Block) <= kPieceBytes);
  const Activations& x = *task.x;
  auto* panel = reinterpret_cast<typename Panel::Block*>(task.scratch);
  auto* values = reinterpret_cast<PanelRow*>(panel + kBlocks);
  PanelRow* mins = values + x.rows;
  __builtin_memset(static_cast<void*>(values), 0,
                   sizeof(PanelRow) * static_cast<unsigned>(x.rows) * (Unpacker::kMins ? 2 : 1));
  const int blocks = task.cols / 256;
  for (int first = 0; first < blocks; first += kBlocks) {
    const int count = blocks - first < kBlocks ? blocks - first : kBlocks;
    for (int b = 0; b < count; ++b) Panel::pack(task.weights, task.row_bytes, task.rows, first + b, panel[b]);
    for_tiles(x.rows, [&]<int kTokens>(int t) {
      for (int b = 0; b < count; ++b) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 256 * (first + b);
        tile_256<Unpacker, kTokens>(panel[b], x, at, values + t, mins + t);
      }
    });
  }
  for (int t = 0; t < x.rows; ++t) {
    float* out = task.out + t * task.out_stride;
    for (int i = 0; i < 2; ++i) {
      __m512 y = _mm512_load_ps(values[t].lane + 16 * i);
      if constexpr (Unpacker::kMins) y = _mm512_sub_ps(y, _mm512_load_ps(mins[t].lane + 16 * i));
      store_rows(out, i, task.rows, y);
    }
  }
}

template <class Unpacker>
inline void many_rows_32(const MatmulTask& task) {
  using Panel = Panel32<Unpacker>;
  constexpr int kUnits = Panel::kPieceUnits;
  static_assert(kUnits * sizeof(typename Panel::Block) <= kPieceBytes);
  const Activations& x = *task.x;
  auto* panel = reinterpret_cast<typename Panel::Block*>(task.scratch);
  auto* values = reinterpret_cast<PanelRow*>(panel + kUnits);  // [chain][row of x]
  PanelRow* mins = values + 4 * x.rows;
  __builtin_memset(static_cast<void*>(values), 0,
                   sizeof(PanelRow) * static_cast<unsigned>(x.rows) * (Unpacker::kMins ? 8 : 4));
  const int blocks = task.cols / 32, units = (blocks + 3) / 4;
  for (int first = 0; first < units; first += kUnits) {
    const int count = units - first < kUnits ? units - first : kUnits;
    for (int u = 0; u < count; ++u) {
      const int block = 4 * (first + u), left = blocks - block;
      Panel::pack(task.weights, task.row_bytes, task.rows, block, left < 4 ? left : 4, panel[u]);
    }
    for_tiles(x.rows, [&]<int kTokens>(int t) {
      for (int u = 0; u < count; ++u) {
        const std::int64_t at = static_cast<std::int64_t>(t) * x.stride + 128 * (first + u);
        tile_32<Unpacker, kTokens>(panel[u], x, at, values + u * x.rows + t, mins + u * x.rows + t);
      }
    });
  }
  const auto chain_sums = [&](const PanelRow* chains, int i) {
    const float* v = chains->lane + 16 * i;
    const std::int64_t next = 32 * static_cast<std::int64_t>(x.rows);
    return _mm512_add_ps(_mm512_add_ps(_mm512_load_ps(v), _mm512_load_ps(v + 2 * next)),
                         _mm512_add_ps(_mm512_load_ps(v + next), _mm512_load_ps(v + 3 * next)));
  };
  for (int t = 0; t < x.rows; ++t) {
    float* out = task.out + t * task.out_stride;
    for (int i = 0; i < 2; ++i) {
      __m512 y = chain_sums(values + t, i);
      if constexpr (Unpacker::kMins) y = _mm512_add_ps(y, chain_sums(mins + t, i));
      store_rows(out, i, task.rows, y);
    }
  }
}

template <class Unpacker>
inline void many_rows(const MatmulTask& task) {
  if constexpr (Unpacker::kValues == 256) {
    many_rows_256<Unpacker>(task);
  } else {
    many_rows_32<Unpacker>(task);
  }
}

}  // namespace pronk::avx512
