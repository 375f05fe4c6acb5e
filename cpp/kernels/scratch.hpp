// Memory that a thread keeps and uses again: a kernel runs some hundred times a token.
#pragma once

#include <cstddef>
#include <new>

namespace pronk {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  // Room for `count` Ts, on a cache line's start. What was there before may be gone.
  template <class T>
  T* get(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    if (bytes > size_) {
      release();
      memory_ = ::operator new(bytes, kAlignment);
      size_ = bytes;
    }
    return static_cast<T*>(memory_);
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void release() {
    if (memory_ != nullptr) ::operator delete(memory_, kAlignment);
    memory_ = nullptr;
    size_ = 0;
  }
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace pronk
