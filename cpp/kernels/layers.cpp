// Norm, activation and residual over the thread pool.
#include "pronk/layers.hpp"

#include <algorithm>

#include "pronk/kernels.hpp"
#include "pronk/thread_pool.hpp"

namespace pronk {

namespace {

// Waking the pool costs some microseconds: what one thread does in that time is not worth sharing.
constexpr std::int64_t kWorthSharing = 32768;

// body(first, last) over parts of [0, count), cut at multiples of `grain`; at once if `work` is small.
template <class Body>
void share(std::int64_t count, std::int64_t grain, std::int64_t work, const Body& body) {
  if (work < kWorthSharing) {
    body(std::int64_t{0}, count);
    return;
  }
  const std::int64_t grains = (count + grain - 1) / grain;
  ThreadPool::instance().run([&](int part, int parts) {
    const std::int64_t first = grains * part / parts * grain, last = grains * (part + 1) / parts * grain;
    if (first < std::min(last, count)) body(first, std::min(last, count));
  });
}

constexpr std::int64_t kLine = 16;  // floats of a cache line: two threads never write into the same one

}  // namespace

void rms_norm(const float* x, const float* gain, float* out, std::int64_t rows, std::int64_t width, float eps) {
  const auto kernel = kernels().layers.rms_norm;
  share(rows, 1, rows * width, [&](std::int64_t first, std::int64_t last) {
    kernel(x + first * width, gain, out + first * width, last - first, width, eps);
  });
}

void silu_mul(float* gate, const float* up, std::int64_t count) {
  const auto kernel = kernels().layers.silu_mul;
  share(count, kLine, count,
        [&](std::int64_t first, std::int64_t last) { kernel(gate + first, up + first, last - first); });
}

void add(float* x, const float* y, std::int64_t count) {
  const auto kernel = kernels().layers.add;
  share(count, kLine, count,
        [&](std::int64_t first, std::int64_t last) { kernel(x + first, y + first, last - first); });
}

}  // namespace pronk
