// Attention, norm, activation and residual for Python. Every index is checked here before a kernel follows it.
#include "pronk/layers.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "bind/arrays.hpp"

namespace nb = nanobind;
using pronk::bind::FloatArray;
using pronk::bind::In;
using pronk::bind::InOut;
using pronk::bind::new_array;
using pronk::bind::refuse;

void bind_layers(nb::module_& m);

namespace {

std::string text(std::size_t n) {
  return std::to_string(n);
}

using Floats1 = In<float, nb::ndim<1>>;
using Floats2 = In<float, nb::ndim<2>>;
using Ints1 = In<std::int32_t, nb::ndim<1>>;
using Ints2 = In<std::int32_t, nb::ndim<2>>;
using Floats = In<float>;
using FloatsInOut = InOut<float>;
using Pages = nb::ndarray<nb::numpy, nb::c_contig, nb::device::cpu>;

FloatArray rms_norm(const Floats2& x, const Floats1& gain, float eps) {
  const std::size_t rows = x.shape(0), width = x.shape(1);
  if (gain.shape(0) != width) refuse("x has " + text(width) + " columns, the gain " + text(gain.shape(0)));
  FloatArray out = new_array({rows, width});
  nb::gil_scoped_release release;
  pronk::rms_norm(x.data(), gain.data(), out.data(), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(width),
                  eps);
  return out;
}

void check_same(const FloatsInOut& x, const Floats& y) {
  bool same = x.ndim() == y.ndim();
  for (std::size_t i = 0; same && i < x.ndim(); ++i) same = x.shape(i) == y.shape(i);
  if (!same) refuse("two arrays of " + text(x.size()) + " and " + text(y.size()) + " values differ in shape");
}

void silu_mul(const FloatsInOut& gate, const Floats& up) {
  check_same(gate, up);
  nb::gil_scoped_release release;
  pronk::silu_mul(gate.data(), up.data(), static_cast<std::int64_t>(gate.size()));
}

void add(const FloatsInOut& x, const Floats& y) {
  check_same(x, y);
  nb::gil_scoped_release release;
  pronk::add(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
}

void expect_shape(const char* name, std::size_t rows, std::size_t cols, std::int64_t want_rows,
                  std::int64_t want_cols) {
  if (static_cast<std::int64_t>(rows) == want_rows && static_cast<std::int64_t>(cols) == want_cols) return;
  refuse(std::string(name) + " is (" + text(rows) + ", " + text(cols) + "), expected (" + std::to_string(want_rows) +
         ", " + std::to_string(want_cols) + ")");
}

void expect_length(const char* name, std::size_t found, std::int64_t expected) {
  if (static_cast<std::int64_t>(found) == expected) return;
  refuse(std::string(name) + " has " + text(found) + " entries, expected " + std::to_string(expected));
}

// Rows, contexts and pages of each sequence. After this every position of every visible context lies in an existing
// page.
void check_sequences(const pronk::AttentionArgs& args, std::int64_t blocks) {
  if (args.query_starts[0] != 0 || args.query_starts[args.sequences] != args.tokens) {
    refuse("query_starts must go from 0 to the " + std::to_string(args.tokens) + " tokens");
  }
  for (std::int64_t s = 0; s < args.sequences; ++s) {
    const std::int64_t start = args.query_starts[s], end = args.query_starts[s + 1], context = args.context_lens[s];
    const std::string where = "sequence " + std::to_string(s);
    if (end < start || end > args.tokens) refuse(where + ": query_starts must not decrease");
    if (context < end - start || context > args.table_width * args.block) {
      refuse(where + ": context of " + std::to_string(context) + " tokens, expected at least its " +
             std::to_string(end - start) + " rows and at most what " + std::to_string(args.table_width) +
             " pages hold");
    }
    for (std::int64_t t = start; t < end; ++t) {
      if (args.positions[t] < 0 || args.positions[t] >= context ||
          (t > start && args.positions[t] <= args.positions[t - 1])) {
        refuse(where + ": position " + std::to_string(args.positions[t]) +
               " is not above the one before it and below the context of " + std::to_string(context));
      }
    }
    const std::int32_t* table = args.block_tables + s * args.table_width;
    for (std::int64_t i = 0; i * args.block < context; ++i) {
      if (table[i] < 0 || table[i] >= blocks) {
        refuse(where + ": page " + std::to_string(table[i]) + " is outside the cache's " + std::to_string(blocks));
      }
    }
  }
}

// The type of a cache's pages, and their sizes: attention_pages.hpp says how they are laid out.
pronk::KvType kv_type(const Pages& pages, const char* name) {
  const nb::dlpack::dtype type = pages.dtype();
  if (type == nb::dtype<std::uint8_t>()) return pronk::KvType::kQ8_0;
  const bool is_float = type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && type.lanes == 1;
  if (!is_float || (type.bits != 16 && type.bits != 32)) {
    refuse(std::string(name) + " must be float16, float32 or uint8 (q8_0)");
  }
  return type.bits == 16 ? pronk::KvType::kF16 : pronk::KvType::kF32;
}

void expect_pages(const char* name, const Pages& pages, std::initializer_list<std::int64_t> shape) {
  bool same = pages.ndim() == shape.size();
  std::string found, expected;
  for (std::size_t i = 0; i < pages.ndim(); ++i) found += (i == 0 ? "" : ", ") + text(pages.shape(i));
  for (std::size_t i = 0; const std::int64_t size : shape) {
    same = same && static_cast<std::int64_t>(pages.shape(i)) == size;
    expected += (i++ == 0 ? "" : ", ") + std::to_string(size);
  }
  if (!same) refuse(std::string(name) + " is (" + found + "), expected (" + expected + ")");
}

// Type and sizes of the pages; returns how many blocks there are.
std::int64_t read_pages(const Pages& keys, const Pages& values, pronk::AttentionArgs& args) {
  constexpr std::int64_t group = pronk::kKeyGroup, most = std::numeric_limits<std::int32_t>::max();
  args.kv_type = kv_type(keys, "key_pages");
  if (kv_type(values, "value_pages") != args.kv_type) refuse("pages of keys and of values differ in type");
  const bool quantized = args.kv_type == pronk::KvType::kQ8_0;
  if (keys.ndim() != (quantized ? 4 : 5)) {
    refuse("key_pages has " + text(keys.ndim()) + " dimensions, expected " + (quantized ? "4" : "5"));
  }
  const auto size = [&](std::size_t i) { return static_cast<std::int64_t>(keys.shape(i)); };
  const std::int64_t blocks = size(0), groups = size(2);
  args.kv_heads = size(1);
  args.width = quantized ? size(3) / (34 * group) * 32 : size(3);
  if (args.kv_heads < 1 || args.width < 2 || args.width % 2 != 0 || args.width > 4096) {
    refuse("pages of " + std::to_string(args.kv_heads) + " heads, each " + std::to_string(args.width) +
           " wide: expected at least one head and an even width up to 4096");
  }
  if (groups < 1 || groups > most / 2 / group) refuse("pages of " + std::to_string(groups) + " groups of tokens");
  args.block = groups * group;
  args.key_pages = keys.data();
  args.value_pages = values.data();
  if (quantized) {
    const std::int64_t bytes = group * args.width / 32 * 34;
    expect_pages("key_pages", keys, {blocks, args.kv_heads, groups, bytes});
    expect_pages("value_pages", values, {blocks, args.kv_heads, groups, bytes});
  } else {
    expect_pages("key_pages", keys, {blocks, args.kv_heads, groups, args.width, group});
    expect_pages("value_pages", values, {blocks, args.kv_heads, args.block, args.width});
  }
  return blocks;
}

FloatArray attention(const Floats2& q, const Floats2& k, const Floats2& v, const Floats2& cos, const Floats2& sin,
                     const Ints1& positions, const Ints1& slots, const Ints1& query_starts, const Ints1& context_lens,
                     const Ints2& block_tables, const Pages& key_pages, const Pages& value_pages) {
  pronk::AttentionArgs args{};
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const std::int64_t blocks = read_pages(key_pages, value_pages, args);
  args.tokens = static_cast<std::int64_t>(q.shape(0));
  const auto q_width = static_cast<std::int64_t>(q.shape(1)), kv_width = args.kv_heads * args.width;
  if (args.tokens > most / 2 || q_width == 0 || q_width % kv_width != 0) {
    refuse("q is " + std::to_string(q_width) + " wide, expected a multiple of the key heads' " +
           std::to_string(kv_width));
  }
  args.heads = q_width / args.width;
  expect_shape("k", k.shape(0), k.shape(1), args.tokens, kv_width);
  expect_shape("v", v.shape(0), v.shape(1), args.tokens, kv_width);
  expect_shape("cos", cos.shape(0), cos.shape(1), args.tokens, args.width / 2);
  expect_shape("sin", sin.shape(0), sin.shape(1), args.tokens, args.width / 2);
  expect_length("positions", positions.size(), args.tokens);
  expect_length("slots", slots.size(), args.tokens);
  args.sequences = static_cast<std::int64_t>(context_lens.size());
  expect_length("query_starts", query_starts.size(), args.sequences + 1);
  args.table_width = static_cast<std::int64_t>(block_tables.shape(1));
  expect_shape("block_tables", block_tables.shape(0), block_tables.shape(1), args.sequences, args.table_width);

  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.cos = cos.data();
  args.sin = sin.data();
  args.positions = positions.data();
  args.slots = slots.data();
  args.query_starts = query_starts.data();
  args.context_lens = context_lens.data();
  args.block_tables = block_tables.data();
  check_sequences(args, blocks);
  for (std::int64_t t = 0; t < args.tokens; ++t) {
    if (args.slots[t] < 0 || args.slots[t] >= blocks * args.block) {
      refuse("slot " + std::to_string(args.slots[t]) + " is outside the cache's " +
             std::to_string(blocks * args.block));
    }
  }
  FloatArray out = new_array({q.shape(0), q.shape(1)});
  args.out = out.data();
  nb::gil_scoped_release release;
  pronk::attention(args);
  return out;
}

}  // namespace

void bind_layers(nb::module_& m) {
  m.def("rms_norm", &rms_norm, nb::arg("x").noconvert(), nb::arg("gain").noconvert(), nb::arg("eps"));
  m.def("silu_mul", &silu_mul, nb::arg("gate").noconvert(), nb::arg("up").noconvert());
  m.def("add", &add, nb::arg("x").noconvert(), nb::arg("y").noconvert());
  m.def("attention", &attention, nb::arg("q").noconvert(), nb::arg("k").noconvert(), nb::arg("v").noconvert(),
        nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("positions").noconvert(),
        nb::arg("slots").noconvert(), nb::arg("query_starts").noconvert(), nb::arg("context_lens").noconvert(),
        nb::arg("block_tables").noconvert(), nb::arg("key_pages").noconvert(), nb::arg("value_pages").noconvert());
}
