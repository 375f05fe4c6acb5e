// Compares every instruction set that runs here with the portable kernels, for equality: what the Python tests do, for
// machines that have no Python, such as an emulated one.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "pronk/kernels.hpp"

namespace pronk::check {

// Everything that a kernel has written, in order.
struct Result {
  std::vector<float> values;        // the same bits, or both NaN
  std::vector<std::uint8_t> bytes;  // equal

  void add(const float* p, std::size_t count) { values.insert(values.end(), p, p + count); }
  void add_bytes(const void* p, std::size_t count) {
    const auto* first = static_cast<const std::uint8_t*>(p);
    bytes.insert(bytes.end(), first, first + count);
  }
};

// Memory that ends where no memory is: what reads or writes behind it does not go unseen.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::size_t count) : count_(count) {
    static_assert(std::is_trivial_v<T>);
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t room = (count * sizeof(T) + page - 1) / page * page;
    size_ = room + page;
    memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto* base = static_cast<std::uint8_t*>(memory_);
    if (memory_ == MAP_FAILED || mprotect(base + room, page, PROT_NONE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(base + room - count * sizeof(T));
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    if (!values.empty()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(memory_, size_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) { return data_[i]; }

 private:
  void* memory_;
  std::size_t size_, count_;
  T* data_;
};

// splitmix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  // Of mean 0 and about normal: the sum of four uniform numbers.
  float normal() {
    double sum = -2.0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(bits() >> 11) * 0x1p-53;
    return static_cast<float>(sum * 1.7320508);
  }

 private:
  std::uint64_t state_;
};

inline std::vector<float> normals(std::size_t count, std::uint64_t seed, float size = 1.0f) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = size * random.normal();
  return values;
}

// The instruction sets that run here, other than the portable one; and what has been found so far.
struct Report {
  std::vector<std::string> isas;
  int checks = 0, failures = 0;

  // One line for each instruction set. run() returns a Result, and uses whatever is selected.
  template <class F>
  void compare(const std::string& name, const F& run) {
    select_isa("portable");
    const Result expected = run();
    for (const std::string& isa : isas) {
      select_isa(isa.c_str());
      const std::string difference = first_difference(run(), expected);
      ++checks;
      failures += difference.empty() ? 0 : 1;
      std::printf("%s %s: %s%s\n", difference.empty() ? "ok  " : "FAIL", isa.c_str(), name.c_str(), difference.c_str());
    }
    std::fflush(stdout);
  }

 private:
  static std::string first_difference(const Result& found, const Result& expected) {
    if (found.values.size() != expected.values.size() || found.bytes.size() != expected.bytes.size()) {
      return ", which differs in size";
    }
    for (std::size_t i = 0; i < found.values.size(); ++i) {
      const float a = found.values[i], b = expected.values[i];
      if (std::bit_cast<std::uint32_t>(a) != std::bit_cast<std::uint32_t>(b) && !(std::isnan(a) && std::isnan(b))) {
        return ", value " + std::to_string(i) + " of " + std::to_string(found.values.size()) + ": " +
               std::to_string(a) + ", expected " + std::to_string(b);
      }
    }
    for (std::size_t i = 0; i < found.bytes.size(); ++i) {
      if (found.bytes[i] != expected.bytes[i]) {
        return ", byte " + std::to_string(i) + " of " + std::to_string(found.bytes.size());
      }
    }
    return "";
  }
};

void check_matmul(Report& report);
void check_encoders(Report& report);
void check_layers(Report& report);
void check_attention(Report& report);
void check_sampling(Report& report);
void check_peaks(Report& report);

}  // namespace pronk::check
