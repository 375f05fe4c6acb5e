#include "bind/arrays.hpp"

#include <array>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace pronk::bind {

namespace {

// Big arrays come and go several times a layer. Given back to the system, their pages would have to be faulted in and
// zeroed again each time, which costs a tenth of a prefill; so a few of the dropped ones are kept.
class Recycler {
 public:
  float* take(std::size_t bytes) {
    if (bytes >= kSmallest) {
      const std::lock_guard<std::mutex> hold(lock_);
      for (std::size_t i = kept_.size(); i-- > 0;) {
        if (kept_[i].bytes != bytes) continue;
        float* memory = kept_[i].memory;
        kept_bytes_ -= bytes;
        kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
        return memory;
      }
    }
    auto* memory = static_cast<float*>(::operator new(bytes, kAlignment));
    return memory;
  }

  void give(float* memory, std::size_t bytes) noexcept {
    if (bytes < kSmallest || bytes > kMostBytes) return release(memory);
    const std::lock_guard<std::mutex> hold(lock_);
    while (!kept_.empty() && (kept_.size() == kMostArrays || kept_bytes_ + bytes > kMostBytes)) {
      release(kept_.front().memory);  // the one unused for longest
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
    kept_.push_back({memory, bytes});
    kept_bytes_ += bytes;
  }

 private:
  static constexpr std::size_t kSmallest = 64 << 10, kMostBytes = 128 << 20, kMostArrays = 16;
  static constexpr std::align_val_t kAlignment{64};
  struct Kept {
    float* memory;
    std::size_t bytes;
  };

  static void release(float* memory) noexcept { ::operator delete(memory, kAlignment); }

  std::mutex lock_;
  std::vector<Kept> kept_;
  std::size_t kept_bytes_ = 0;
};

Recycler& recycler() {
  static auto* the = new Recycler;  // never destroyed: arrays may outlive the module's static objects
  return *the;
}

struct Owner {
  float* memory;
  std::size_t bytes;
};

}  // namespace

FloatArray new_array(std::initializer_list<std::size_t> shape) {
  std::size_t bytes = sizeof(float);
  for (const std::size_t extent : shape) bytes *= extent;
  bytes = (bytes + 63) / 64 * 64;
  auto* owner = new Owner{recycler().take(bytes), bytes};
  const nb::capsule capsule(owner, [](void* p) noexcept {
    const auto* o = static_cast<Owner*>(p);
    recycler().give(o->memory, o->bytes);
    delete o;
  });
  return {owner->memory, shape, capsule};
}

}  // namespace pronk::bind
