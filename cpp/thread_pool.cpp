// The pool of thread_pool.hpp. One job is current at a time; `ticket` counts jobs. Workers that see a new number, and
// the caller, claim parts until none is left: a worker that the system has not woken yet costs nothing, the others do
// its part. Workers and the caller spin for a bounded time before they sleep (std::atomic::wait: a futex on Linux).
#include "pronk/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pronk {

namespace {

// Between two kernels of a token lies some 20 us of other work; a wake-up costs as much again. Ten of these spans is
// also short enough that an idle process is idle.
constexpr std::chrono::microseconds kSpin{200};

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // the customary pause on ARM: `yield` does nothing there
#endif
}

// Waits until value != old: by spinning if `spin`, then asleep.
std::uint32_t wait_change(const std::atomic<std::uint32_t>& value, std::uint32_t old, bool spin) {
  if (spin) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        const std::uint32_t now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        pause();
      }
    } while (std::chrono::steady_clock::now() < end);
  }
  std::uint32_t now;
  while ((now = value.load(std::memory_order_acquire)) == old) value.wait(old, std::memory_order_acquire);
  return now;
}

thread_local bool inside_body = false;

std::atomic<ThreadPool*> current{nullptr};
std::atomic<int> wanted{0};  // the size asked for last, kept over a fork; 0: usable_cores()

}  // namespace

struct ThreadPool::State {
  std::mutex turn;  // held by the thread whose job is current
  std::vector<std::thread> workers;
  std::atomic<int> size{1};
  bool spin = true;
  std::atomic<bool> stop{false};
  std::atomic<std::uint32_t> ticket{0};
  // The current job's number above, the next part that nobody has claimed below. One word, so that a late worker cannot
  // claim a part of a job other than the one it knows.
  std::atomic<std::uint64_t> claims{0};
  std::atomic<std::uint32_t> unfinished{0};  // parts of the current job
  const Body* body = nullptr;                // read by those who hold a claim; the caller waits for them
  std::mutex error_lock;
  std::exception_ptr error;

  // True, and a part, while job `number` is current and has one left.
  bool claim(std::uint32_t number, int& part) {
    std::uint64_t now = claims.load(std::memory_order_acquire);
    for (;;) {
      part = static_cast<int>(now & 0xffffffffu);
      if (now >> 32 != number || part >= size.load(std::memory_order_relaxed)) return false;
      if (claims.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
    }
  }

  // An exception must not leave a worker: it is kept, and the caller throws it.
  void call(int part) {
    inside_body = true;
    try {
      (*body)(part, size.load(std::memory_order_relaxed));
    } catch (...) {
      const std::lock_guard<std::mutex> hold(error_lock);
      if (!error) error = std::current_exception();
    }
    inside_body = false;
  }

  void do_parts(std::uint32_t number) {
    for (int part; claim(number, part);) {
      call(part);
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_one();
    }
  }

  void work(std::uint32_t seen) {
    for (;;) {
      seen = wait_change(ticket, seen, spin);
      if (stop.load(std::memory_order_acquire)) return;
      do_parts(seen);
    }
  }

  void join_workers() {
    if (workers.empty()) return;
    stop.store(true, std::memory_order_release);
    ticket.fetch_add(1, std::memory_order_acq_rel);
    ticket.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
    stop.store(false, std::memory_order_release);
  }

  void start_workers(int threads) {
    spin = threads <= usable_cores();  // with more threads than cores, spinning takes the time the others need
    size.store(threads, std::memory_order_relaxed);
    const std::uint32_t seen = ticket.load(std::memory_order_relaxed);
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, seen] { work(seen); });
  }
};

ThreadPool::ThreadPool() : state_(std::make_unique<State>()) {
  const int threads = wanted.load(std::memory_order_relaxed);
  state_->start_workers(threads > 0 ? threads : usable_cores());
}

ThreadPool::~ThreadPool() {
  state_->join_workers();
}

// The pool is made at its first use and never destroyed: at exit its threads end with the process. After a fork the
// child has none of the threads, and locks may be held by threads that
// are gone, so it forgets the pool and makes another.
ThreadPool& ThreadPool::instance() {
  ThreadPool* pool = current.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  (void)registered;
#endif
  auto* made = new ThreadPool();
  if (current.compare_exchange_strong(pool, made)) return *made;
  delete made;  // another thread was quicker
  return *pool;
}

int ThreadPool::size() const {
  return state_->size.load(std::memory_order_relaxed);
}

void ThreadPool::resize(int threads) {
  threads = std::max(threads, 1);
  const std::lock_guard<std::mutex> hold(state_->turn);
  wanted.store(threads, std::memory_order_relaxed);
  if (threads == size()) return;
  state_->join_workers();
  state_->start_workers(threads);
}

void ThreadPool::run(const Body& body) {
  State& s = *state_;
  if (inside_body) {
    const int parts = size();
    for (int part = 0; part < parts; ++part) body(part, parts);
    return;
  }
  const std::lock_guard<std::mutex> hold(s.turn);
  s.body = &body;
  s.unfinished.store(static_cast<std::uint32_t>(size()), std::memory_order_relaxed);
  const std::uint32_t number = s.ticket.load(std::memory_order_relaxed) + 1;
  s.claims.store(std::uint64_t{number} << 32, std::memory_order_release);
  s.ticket.store(number, std::memory_order_release);
  s.ticket.notify_all();
  s.do_parts(number);
  std::uint32_t left;
  while ((left = s.unfinished.load(std::memory_order_acquire)) != 0) wait_change(s.unfinished, left, s.spin);
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace pronk
