// Encoding cut into tasks for the thread pool. How a block is encoded is in encode_*.hpp.
#include "pronk/encode.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>

#include "pronk/kernels.hpp"
#include "pronk/thread_pool.hpp"
#include "quants/encoders.hpp"

namespace pronk {

namespace portable {
extern const Encoders encoders;
}
#ifdef PRONK_X86
namespace avx2 {
extern const Encoders encoders;
}
namespace avx512 {
extern const Encoders encoders;
}
#endif
#ifdef PRONK_ARM
namespace neon {
extern const Encoders encoders;
}
#endif

namespace {

const Encoders& chosen_encoders() {
#ifdef PRONK_X86
  if (std::strcmp(kernels().isa, "avx512") == 0) return avx512::encoders;
  if (std::strcmp(kernels().isa, "avx2") == 0) return avx2::encoders;
#endif
#ifdef PRONK_ARM
  if (std::strcmp(kernels().isa, "portable") != 0) return neon::encoders;
#endif
  return portable::encoders;
}

bool finite(const float* values, std::int64_t count) {
  std::uint32_t largest = 0;  // without their sign, the bits of floats are ordered as the floats are
  for (std::int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffu);
  }
  return largest < 0x7f800000u;
}

void keep_least(std::atomic<std::int64_t>& least, std::int64_t value) {
  std::int64_t now = least.load(std::memory_order_relaxed);
  while (value < now && !least.compare_exchange_weak(now, value, std::memory_order_relaxed)) {
  }
}

// Enough that claiming a task costs nothing beside it, and few enough that no thread waits long for the last one.
constexpr std::int64_t kTaskValues = 16 << 10;

}  // namespace

bool can_encode(int type) {
  return type >= 0 && type < kTypeLimit && portable::encoders.block[type] != nullptr;
}

std::int64_t encode(const float* values, std::int64_t count, std::int64_t cols, int type, const float* importance,
                    std::uint8_t* out) {
  const TypeInfo& info = *type_info(type);
  const EncodeBlock encode_block = chosen_encoders().block[type];
  const std::int64_t block = info.block, tasks = (count + kTaskValues - 1) / kTaskValues;
  std::atomic<std::int64_t> next{0}, bad{count};
  ThreadPool::instance().run([&](int, int) {
    for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      const std::int64_t first = task * kTaskValues, last = std::min(count, first + kTaskValues);
      for (std::int64_t i = first; i < last; i += block) {
        if (!finite(values + i, block)) {
          keep_least(bad, i);
          break;
        }
        encode_block(values + i, importance == nullptr ? nullptr : importance + i % cols, out + i / block * info.bytes);
      }
    }
  });
  std::int64_t at = bad.load();
  if (at == count) return -1;
  while (finite(values + at, 1)) ++at;
  return at;
}

}  // namespace pronk
