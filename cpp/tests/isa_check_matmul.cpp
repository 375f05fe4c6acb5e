// Products with weights of every type, and the encoders.
#include <cstddef>

#include "isa_check.hpp"
#include "pronk/encode.hpp"

namespace pronk::check {

namespace {

using Bytes = std::vector<std::uint8_t>;

// Where a block's fp16 numbers lie.
std::vector<std::size_t> halves_of(Type type) {
  switch (type) {
    case Type::kQ4_1:
    case Type::kQ5_1:
    case Type::kQ4_K:
    case Type::kQ5_K:
      return {0, 2};
    case Type::kQ2_K:
      return {offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)};
    case Type::kQ3_K:
      return {offsetof(BlockQ3_K, d)};
    case Type::kQ6_K:
      return {offsetof(BlockQ6_K, d)};
    case Type::kTQ1_0:
      return {offsetof(BlockTQ1_0, d)};
    case Type::kTQ2_0:
      return {offsetof(BlockTQ2_0, d)};
    default:
      return {0};
  }
}

// Scales of ordinary size, 2^-10 to 2^-6 of either sign; all other bits stay.
void set_scales(Bytes& data, int type, Random& random) {
  const auto bytes = static_cast<std::size_t>(type_info(type)->bytes);
  for (std::size_t at = 0; at < data.size(); at += bytes) {
    std::uint8_t* block = data.data() + at;
    const auto ordinary = [&] {
      const std::uint64_t bits = random.bits();
      return static_cast<std::uint16_t>((bits & 0x83ffu) | (5 + (bits >> 16) % 5) << 10);
    };
    if (type == static_cast<int>(Type::kMXFP4)) {
      block[0] = static_cast<std::uint8_t>(115 + random.bits() % 10);
    } else if (type == static_cast<int>(Type::kIQ1_M)) {
      auto& scales = reinterpret_cast<BlockIQ1_M*>(block)->scales;
      const unsigned d = ordinary();
      for (int i = 0; i < 4; ++i) {
        scales[i][1] = static_cast<std::uint8_t>((scales[i][1] & 15) | (d >> 4 * i & 15) << 4);
      }
    } else {
      for (const std::size_t half : halves_of(static_cast<Type>(type))) {
        const std::uint16_t d = ordinary();
        std::memcpy(block + half, &d, 2);
      }
    }
  }
}

Bytes random_bytes(std::size_t count, Random& random) {
  Bytes data(count);
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random.bits() >> 24);
  return data;
}

Bytes random_weights(int type, std::size_t values, Random& random) {
  const TypeInfo& info = *type_info(type);
  if (info.block > 1) {
    Bytes data =
        random_bytes(values / static_cast<std::size_t>(info.block) * static_cast<std::size_t>(info.bytes), random);
    set_scales(data, type, random);
    return data;
  }
  Bytes data(values * static_cast<std::size_t>(info.bytes));
  for (std::size_t i = 0; i < values; ++i) {
    const float value = random.normal();
    if (type == static_cast<int>(Type::kF32)) {
      std::memcpy(data.data() + 4 * i, &value, 4);
      continue;
    }
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    auto word = static_cast<std::uint16_t>(bits >> 16);
    // Of fp16: the sign, an exponent from subnormal to 2^2, any mantissa.
    if (type == static_cast<int>(Type::kF16)) {
      word = static_cast<std::uint16_t>((random.bits() & 0x83ffu) | random.bits() % 18 << 10);
    }
    std::memcpy(data.data() + 2 * i, &word, 2);
  }
  return data;
}

Result products(int type, const Bytes& data, int rows, int cols, const std::vector<float>& values, int tokens) {
  const TypeInfo& info = *type_info(type);
  const Guarded<std::uint8_t> weights(data);
  const Guarded<float> x(values);
  Guarded<float> y(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(rows));
  const MatrixView matrix{weights.data(), type, rows, cols, cols / info.block * info.bytes};
  float* out = y.data();
  linear(x.data(), tokens, cols, &matrix, 1, &out);
  Result result;
  result.add(y.data(), y.size());
  return result;
}

void append(Result& all, const Result& one) {
  all.add(one.values.data(), one.values.size());
}

// Few rows of x from 1 to 6, then tiles with every kind of rest; panels that are whole, begun, and of one row.
Result random_products(int type, const std::vector<int>& columns) {
  Result all;
  for (const int rows : {1, 33, 56}) {
    for (const int cols : columns) {
      Random random(static_cast<std::uint64_t>(1000 * rows + cols));
      const Bytes data = random_weights(type, static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols), random);
      for (const int tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 14}) {
        const auto x = normals(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(cols), 7);
        append(all, products(type, data, rows, cols, x, tokens));
      }
    }
  }
  return all;
}

// The largest whole sums there are: all bits set, or none, against activations that are all at their limit.
Result extreme_products(int type) {
  constexpr int kRows = 35, kCols = 768;
  Result all;
  for (const int fill : {0x00, 0x7f, 0x80, 0xff}) {
    Random random(3);
    Bytes data(static_cast<std::size_t>(kRows * kCols / type_info(type)->block * type_info(type)->bytes),
               static_cast<std::uint8_t>(fill));
    set_scales(data, type, random);
    for (const int tokens : {3, 13}) {
      std::vector<float> x(static_cast<std::size_t>(tokens * kCols));
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t t = i / kCols;
        x[i] = (t % 2 == 1) != (t % 3 == 2 && i % 2 == 0) ? -1.0f : 1.0f;
      }
      append(all, products(type, data, kRows, kCols, x, tokens));
    }
  }
  return all;
}

// A damaged file: every bit pattern, infinite and NaN scales among them; and rows of x with an infinity, a NaN, zeros
// and numbers too small to scale.
Result damaged_products(int type) {
  constexpr int kRows = 40, kCols = 512;
  Random random(11);
  const TypeInfo& info = *type_info(type);
  const Bytes data = random_bytes(static_cast<std::size_t>(kRows * kCols / info.block * info.bytes), random);
  Result all;
  for (const int tokens : {5, 11}) {
    auto x = normals(static_cast<std::size_t>(tokens * kCols), 12);
    x[kCols + 300] = INFINITY;
    x[2 * kCols + 7] = NAN;
    for (int i = 0; i < kCols; ++i) {
      x[static_cast<std::size_t>(3 * kCols + i)] = 0.0f;
      x[static_cast<std::size_t>(4 * kCols + i)] = 1e-38f;
    }
    append(all, products(type, data, kRows, kCols, x, tokens));
  }
  return all;
}

}  // namespace

void check_matmul(Report& report) {
  for (int type = 0; type < kTypeLimit; ++type) {
    const TypeInfo* info = type_info(type);
    if (info == nullptr) continue;
    const std::string name = info->name;
    if (info->block == 1) {
      report.compare(name + ", random weights", [&] { return random_products(type, {1, 15, 100, 530}); });
    } else {
      const int odd_count = info->block == 256 ? 768 : 32 * 21;
      report.compare(name + ", random blocks", [&] { return random_products(type, {info->block, odd_count}); });
      report.compare(name + ", extreme blocks", [&] { return extreme_products(type); });
    }
    report.compare(name + ", damaged weights", [&] { return damaged_products(type); });
  }
}

void check_encoders(Report& report) {
  constexpr std::int64_t kCount = 4 * 256;
  auto values = normals(kCount, 21), importance = normals(512, 22);
  for (float& weight : importance) weight = std::fabs(weight);
  for (std::size_t i = 256; i < 512; ++i) values[i] = i % 3 == 0 ? 0.0f : values[i] * 1e-3f;
  for (int type = 0; type < kTypeLimit; ++type) {
    if (!can_encode(type)) continue;
    const TypeInfo& info = *type_info(type);
    report.compare(std::string(info.name) + ", encoded", [&] {
      Result result;
      std::vector<std::uint8_t> out(static_cast<std::size_t>(kCount / info.block * info.bytes));
      for (const float* weights : {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
        encode(values.data(), kCount, 512, type, weights, out.data());
        result.add_bytes(out.data(), out.size());
      }
      return result;
    });
  }
}

}  // namespace pronk::check
