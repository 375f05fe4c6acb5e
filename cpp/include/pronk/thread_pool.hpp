// A pool that spins briefly between kernels and then sleeps: a token is some 150 small jobs, and waking a sleeping
// thread for each would cost more than the job.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace pronk {

// A borrowed callable: no allocation, valid for the length of the call it is passed to.
class Body {
 public:
  template <class F>
  Body(const F& f)  // NOLINT: implicit on purpose, so that a lambda can be passed
      : object_(&f),
        call_([](const void* object, int part, int parts) { (*static_cast<const F*>(object))(part, parts); }) {}
  void operator()(int part, int parts) const { call_(object_, part, parts); }

 private:
  const void* object_;
  void (*call_)(const void*, int, int);
};

class ThreadPool {
 public:
  static ThreadPool& instance();

  int size() const;          // threads that work, the caller counted
  void resize(int threads);  // not while a run is going on

  // body(part, parts) once for each part in [0, size()), each on whichever thread is free, the calling one among them;
  // returns when all are done. An exception of a body is thrown here.
  // Calls from several threads take turns. A call from inside a body runs all parts on the spot.
  void run(const Body& body);

 private:
  ThreadPool();
  ~ThreadPool();
  struct State;
  std::unique_ptr<State> state_;
};

// Physical cores that this process may use: affinity and cgroup limits counted.
int usable_cores();

}  // namespace pronk
