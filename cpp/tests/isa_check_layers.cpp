// Norm, activation, residual, attention, the passes of sampling, and the kernels that measure the machine.
#include <algorithm>

#include "isa_check.hpp"

namespace pronk::check {

namespace {

// Numbers where an operation may differ between instruction sets, in place of some.
std::vector<float> with_odd_numbers(std::vector<float> x) {
  const float odd[] = {0.0f,    -0.0f,  1e-40f, -1e-40f, 87.3f,    -87.3f,    88.8f,    -88.8f,    -104.0f,
                       1000.0f, -1e30f, 3e38f,  -3e38f,  INFINITY, -INFINITY, 0.34657f, -0.34658f, NAN};
  std::size_t at = 0;
  for (const float number : odd) {
    if (at < x.size()) x[at] = number;
    at += 7;
  }
  return x;
}

// One layer's cache and the tokens that came into it so far.
struct Cache {
  KvType type;
  std::int64_t heads, kv_heads, width, block;
  std::vector<std::int32_t> tables;  // (sequences, table_width)
  std::int64_t table_width;
  std::vector<std::uint8_t> keys, values;

  Cache(KvType kind, std::int64_t h, std::int64_t k, std::int64_t e, std::int64_t page, const std::vector<int>& lengths)
      : type(kind), heads(h), kv_heads(k), width(e), block(page), table_width(0) {
    for (const int length : lengths) table_width = std::max<std::int64_t>(table_width, (length + block - 1) / block);
    const auto pages = static_cast<std::int64_t>(lengths.size()) * table_width + 1;
    for (std::int64_t i = 0; i + 1 < pages; ++i) {  // scattered
      tables.push_back(static_cast<std::int32_t>(i * 7 % (pages - 1) + (i * 7 % (pages - 1) < pages / 2 ? 0 : 1)));
    }
    const std::int64_t count = pages * kv_heads * block * width;
    const std::int64_t bytes = type == KvType::kF32 ? 4 * count : type == KvType::kF16 ? 2 * count : count / 32 * 34;
    keys.assign(static_cast<std::size_t>(bytes), 0xff);  // NaN where nothing has been written
    values = keys;
  }
};

// Positions [first, last) of each sequence in one batch; whole sequences have the same numbers however they are cut.
void attend(Cache& cache, const std::vector<int>& first, const std::vector<int>& last, Result& result) {
  const std::int64_t E = cache.width;
  std::vector<float> q, k, v, cos, sin;
  std::vector<std::int32_t> positions, slots, starts{0}, lengths;
  for (std::size_t s = 0; s < first.size(); ++s) {
    for (int position = first[s]; position < last[s]; ++position) {
      const auto seed = static_cast<std::uint64_t>(10000 * s) + static_cast<std::uint64_t>(position);
      const auto add = [&](std::vector<float>& all, std::int64_t count, std::uint64_t which) {
        const auto row = normals(static_cast<std::size_t>(count), 3 * seed + which);
        all.insert(all.end(), row.begin(), row.end());
      };
      add(q, cache.heads * E, 0);
      add(k, cache.kv_heads * E, 1);
      add(v, cache.kv_heads * E, 2);
      for (std::int64_t i = 0; i < E / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(E));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
      positions.push_back(position);
      const std::int32_t page = cache.tables[s * static_cast<std::size_t>(cache.table_width) +
                                             static_cast<std::size_t>(position / cache.block)];
      slots.push_back(static_cast<std::int32_t>(page * cache.block + position % cache.block));
    }
    starts.push_back(static_cast<std::int32_t>(positions.size()));
    lengths.push_back(last[s]);
  }
  Guarded<float> out(q.size());
  Guarded<std::uint8_t> keys(cache.keys), values(cache.values);
  const Guarded<float> queries(q), new_keys(k), new_values(v);
  attention({.q = queries.data(),
             .k = new_keys.data(),
             .v = new_values.data(),
             .cos = cos.data(),
             .sin = sin.data(),
             .positions = positions.data(),
             .slots = slots.data(),
             .query_starts = starts.data(),
             .context_lens = lengths.data(),
             .block_tables = cache.tables.data(),
             .key_pages = keys.data(),
             .value_pages = values.data(),
             .out = out.data(),
             .kv_type = cache.type,
             .tokens = static_cast<std::int64_t>(positions.size()),
             .sequences = static_cast<std::int64_t>(first.size()),
             .table_width = cache.table_width,
             .heads = cache.heads,
             .kv_heads = cache.kv_heads,
             .width = E,
             .block = cache.block});
  std::memcpy(cache.keys.data(), keys.data(), keys.size());
  std::memcpy(cache.values.data(), values.data(), values.size());
  result.add(out.data(), out.size());
  result.add_bytes(keys.data(), keys.size());
  result.add_bytes(values.data(), values.size());
}

}  // namespace

void check_layers(Report& report) {
  for (const int width : {1, 5, 16, 17, 100, 256, 1030}) {
    const auto count = static_cast<std::size_t>(3 * width);
    report.compare("rms_norm of " + std::to_string(width), [&] {
      const Guarded<float> x(normals(count, 1)), gain(normals(static_cast<std::size_t>(width), 2));
      Guarded<float> out(count);
      rms_norm(x.data(), gain.data(), out.data(), 3, width, 1e-5f);
      Result result;
      result.add(out.data(), count);
      return result;
    });
    report.compare("silu_mul and add of " + std::to_string(width), [&] {
      Guarded<float> gate(with_odd_numbers(normals(count, 3, 9.0f))), sum(with_odd_numbers(normals(count, 4)));
      const Guarded<float> up(normals(count, 5));
      silu_mul(gate.data(), up.data(), static_cast<std::int64_t>(count));
      add(sum.data(), up.data(), static_cast<std::int64_t>(count));
      Result result;
      result.add(gate.data(), count);
      result.add(sum.data(), count);
      return result;
    });
  }
}

void check_attention(Report& report) {
  struct Shape {
    std::int64_t heads, kv_heads, width, block;
  };
  const auto compare = [&](KvType type, const std::string& name, const Shape& shape) {
    report.compare("attention over " + name + ", heads of " + std::to_string(shape.width), [&] {
      Result result;
      Cache some(type, shape.heads, shape.kv_heads, shape.width, shape.block, {2, 40, 71});
      attend(some, {0, 0, 0}, {1, 37, 70}, result);    // prompts,
      attend(some, {1, 37, 70}, {2, 40, 71}, result);  // then a few tokens each
      return result;
    });
  };
  for (const auto& [type, name] : {std::pair{KvType::kF32, "f32"}, std::pair{KvType::kF16, "f16"}}) {
    for (const Shape& shape : {Shape{6, 2, 20, 32}, Shape{4, 1, 64, 16}, Shape{3, 3, 130, 48}}) {
      compare(type, name, shape);
    }
  }
  for (const Shape& shape : {Shape{6, 2, 32, 32}, Shape{8, 1, 96, 16}}) compare(KvType::kQ8_0, "q8_0", shape);
  for (const auto& [type, name] : {std::pair{KvType::kF16, "f16"}, std::pair{KvType::kQ8_0, "q8_0"}}) {
    report.compare("attention over " + std::string(name) + ", several segments", [&, type = type] {
      Result result;
      Cache one(type, 2, 1, 32, 64, {1100});
      attend(one, {0}, {1090}, result);
      attend(one, {1090}, {1091}, result);
      attend(one, {1091}, {1100}, result);
      return result;
    });
  }
}

void check_sampling(Report& report) {
  for (const std::size_t count : {1, 16, 50, 5003}) {
    auto logits = normals(count, 31, 6.0f);
    if (count > 20) logits[20] = -INFINITY;
    report.compare("sampling from " + std::to_string(count), [&] {
      const SamplingKernels& kernel = kernels().sampling;
      const Guarded<float> x(logits);
      const auto n = static_cast<std::int64_t>(count);
      const float largest = kernel.maximum(x.data(), n);
      const SoftmaxSums sums = kernel.softmax_sums(x.data(), n, largest, 0.7f);
      Guarded<float> exponentials(count);
      kernel.exponentials(x.data(), n, largest, 0.7f, exponentials.data());
      Guarded<std::int32_t> indices(count);
      const std::int64_t found = kernel.at_least(x.data(), n, 1.5f, indices.data(), n);
      Result result;
      result.values.push_back(largest);
      result.add_bytes(&sums, sizeof(sums));
      result.add(exponentials.data(), count);
      result.add_bytes(&found, sizeof(found));
      result.add_bytes(indices.data(), static_cast<std::size_t>(found) * sizeof(std::int32_t));
      return result;
    });
    for (const float bad : {NAN, INFINITY}) {
      auto wrong = logits;
      wrong[count / 2] = bad;
      report.compare("the maximum of " + std::to_string(count) + " with " + std::to_string(bad), [&] {
        const float largest = kernels().sampling.maximum(wrong.data(), static_cast<std::int64_t>(count));
        Result result;
        result.values.push_back(largest);
        return result;
      });
    }
  }
}

void check_peaks(Report& report) {
  constexpr int kCount = 24, kPasses = 3;
  report.compare("sums of bytes and products", [&] {
    Random random(41);
    Guarded<std::int8_t> left(kPeakRows * kPeakWidth), right(kCount * kPeakWidth);
    for (std::size_t i = 0; i < left.size(); ++i) left[i] = static_cast<std::int8_t>(random.bits() % 255 - 127);
    for (std::size_t i = 0; i < right.size(); ++i) right[i] = static_cast<std::int8_t>(random.bits() % 16);
    Guarded<float> numbers(kPeakRows), vectors(16 * kCount);  // whole ones: their sums are exact
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(left[i]);
    for (std::size_t i = 0; i < vectors.size(); ++i) vectors[i] = static_cast<float>(right[i]);
    const PeakKernels& kernel = kernels().peaks;
    const auto bytes = static_cast<std::int64_t>(left.size());
    const std::uint64_t read = kernel.read_sum(reinterpret_cast<const std::uint8_t*>(left.data()), bytes);
    const std::uint32_t whole = kernel.int8_sum({left.data(), right.data(), kCount, kPasses});
    Result result;
    result.add_bytes(&read, sizeof(read));
    result.add_bytes(&whole, sizeof(whole));
    result.values.push_back(kernel.float_sum({numbers.data(), vectors.data(), kCount, kPasses}));
    return result;
  });
}

}  // namespace pronk::check
