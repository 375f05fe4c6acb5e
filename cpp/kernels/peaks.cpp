// The kernels of peaks.hpp over the thread pool.
#include "pronk/peaks.hpp"

#include <mutex>

#include "pronk/kernels.hpp"
#include "pronk/thread_pool.hpp"

namespace pronk {

namespace {

// An instruction set without kernels of its own has the portable ones, as its compiler made them.
const PeakKernels& peak_kernels() {
  const PeakKernels& own = kernels().peaks;
  return own.read_sum != nullptr ? own : kernels_for("portable")->peaks;
}

// body(part, parts) on each thread, and the sum of what they return.
template <class Sum, class F>
Sum sum_of_parts(const F& body) {
  std::mutex lock;
  Sum sum = 0;
  ThreadPool::instance().run([&](int part, int parts) {
    const Sum own = body(part, parts);
    const std::lock_guard<std::mutex> hold(lock);
    sum += own;
  });
  return sum;
}

}  // namespace

std::uint64_t read_sum(const std::uint8_t* data, std::int64_t bytes) {
  const auto kernel = peak_kernels().read_sum;
  const std::int64_t lines = bytes / kPeakLine;
  return sum_of_parts<std::uint64_t>([&](int part, int parts) {
    const std::int64_t first = lines * part / parts * kPeakLine, last = lines * (part + 1) / parts * kPeakLine;
    return kernel(data + first, last - first);
  });
}

std::uint32_t int8_sum(const Int8Products& products) {
  const auto kernel = peak_kernels().int8_sum;
  return sum_of_parts<std::uint32_t>([&](int, int) { return kernel(products); });
}

double float_sum(const FloatProducts& products) {
  const auto kernel = peak_kernels().float_sum;
  return sum_of_parts<double>([&](int, int) { return static_cast<double>(kernel(products)); });
}

}  // namespace pronk
