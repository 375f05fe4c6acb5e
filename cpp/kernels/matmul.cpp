// How a product is cut into tasks for the thread pool. The arithmetic is in the kernels of each instruction set.
#include "pronk/matmul.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/scratch.hpp"
#include "pronk/kernels.hpp"
#include "pronk/thread_pool.hpp"

namespace pronk {

namespace {

thread_local Scratch task_scratch, activation_scratch[2];

// Cuts one piece of memory into aligned arrays. Without memory it only adds up what they will take.
class Cutter {
 public:
  explicit Cutter(std::uint8_t* memory) : memory_(memory) {}
  template <class T>
  void cut(T*& array, std::size_t count) {
    if (memory_ != nullptr) array = reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
  }
  std::size_t used() const { return used_; }

 private:
  std::uint8_t* memory_;
  std::size_t used_ = 0;
};

QuantizedRow cut_arrays(Cutter& memory, std::size_t count, int block) {
  QuantizedRow a;
  memory.cut(a.q, count);
  memory.cut(a.biased, count);
  memory.cut(a.scale, count / static_cast<std::size_t>(block));
  if (block == 256) {
    memory.cut(a.sums16, count / 16);
    memory.cut(a.sums32, count / 32);
  } else {
    memory.cut(a.start, count / 32);
    memory.cut(a.scaled_sum, count / 32);
  }
  return a;
}

// The arrays of one row, `at` values into those of all rows.
QuantizedRow row_at(const QuantizedRow& all, std::size_t at, int block) {
  if (block == 256) {
    return {.q = all.q + at,
            .biased = all.biased + at,
            .scale = all.scale + at / 256,
            .sums16 = all.sums16 + at / 16,
            .sums32 = all.sums32 + at / 32};
  }
  return {.q = all.q + at,
          .biased = all.biased + at,
          .scale = all.scale + at / 32,
          .start = all.start + at / 32,
          .scaled_sum = all.scaled_sum + at / 32};
}

// x in the form for weights in blocks of `block` values, in memory of the calling thread.
Activations quantize(const float* x, int rows, int cols, int block, Scratch& memory) {
  const int stride = (cols + 511) / 512 * 512;
  const std::size_t count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(stride);
  Cutter measure(nullptr);
  cut_arrays(measure, count, block);
  Cutter cutter(memory.get<std::uint8_t>(measure.used()));
  const QuantizedRow a = cut_arrays(cutter, count, block);

  const auto some_rows = [&](int first, int last) {
    for (int t = first; t < last; ++t) {
      const std::size_t at = static_cast<std::size_t>(t) * static_cast<std::size_t>(stride);
      const float* row = x + static_cast<std::ptrdiff_t>(t) * cols;
      kernels().matmul.quantize(row, cols, stride, block, row_at(a, at, block));
    }
  };
  constexpr std::size_t kWorthSharing = 64 << 10;  // values; fewer are done before another thread has woken
  if (count < kWorthSharing) {
    some_rows(0, rows);
  } else {
    ThreadPool::instance().run([&](int part, int parts) {
      const auto cut = [&](int p) { return static_cast<int>(static_cast<std::int64_t>(rows) * p / parts); };
      some_rows(cut(part), cut(part + 1));
    });
  }
  return {.rows = rows,
          .cols = cols,
          .stride = stride,
          .x = x,
          .int8 = {a.q, a.biased, a.scale, a.sums16, a.sums32, a.start, a.scaled_sum}};
}

// One weight of a `linear`, cut into tasks of `step` rows.
struct Job {
  const MatrixView* weight;
  const Activations* x;
  MatmulKernel kernel;
  float* out;
  int step;
  std::int64_t first_task, tasks;
};

// A task of a few-rows kernel reads about this much of the weight: enough to stream, little enough that no thread waits
// long for the last one.
constexpr std::int64_t kTaskBytes = 128 << 10;

int task_rows(const MatrixView& weight, bool many) {
  if (many) return type_info(weight.type)->block == 1 ? kFloatPanelRows : kPanelRows;
  const std::int64_t rows = kTaskBytes / weight.row_bytes;
  return static_cast<int>(std::clamp<std::int64_t>(rows / 16 * 16, 16, 4096));  // whole cache lines of y
}

void run_task(const Job& job, std::int64_t task, std::uint8_t* scratch) {
  const std::int64_t row = task * job.step;
  const MatrixView& weight = *job.weight;
  job.kernel({.weights = weight.data + row * weight.row_bytes,
              .row_bytes = weight.row_bytes,
              .rows = static_cast<int>(std::min<std::int64_t>(job.step, weight.rows - row)),
              .cols = static_cast<int>(weight.cols),
              .x = job.x,
              .out = job.out + row,
              .out_stride = weight.rows,
              .scratch = scratch});
}

// Reading so much of the weights, from cache, takes one core about as long as another needs to come and leave.
constexpr std::int64_t kWorthAThread = 128 << 10;

// Threads draw tasks in order from one counter, so that no thread waits for a slower one. `work` is in bytes read.
void run_jobs(const Job* jobs, int count, std::size_t scratch, std::int64_t work) {
  const std::int64_t tasks = jobs[count - 1].first_task + jobs[count - 1].tasks;
  std::atomic<std::int64_t> next{0};
  const auto draw = [&](int, int) {
    std::uint8_t* memory = task_scratch.get<std::uint8_t>(scratch);
    for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      int j = 0;
      while (task >= jobs[j].first_task + jobs[j].tasks) ++j;
      run_task(jobs[j], task - jobs[j].first_task, memory);
    }
  };
  if (tasks == 1 || work < kWorthAThread) return draw(0, 1);
  ThreadPool::instance().run(draw);
}

MatmulKernel kernel_for(const MatmulKernels& matmul, int type, bool many) {
  const MatmulKernel kernel = (many ? matmul.many_rows : matmul.few_rows)[type];
  return kernel != nullptr ? kernel : kernels_for("portable")->matmul.few_rows[type];
}

constexpr int kMostJobs = 8;  // weights in one pool job; more are done in turns

}  // namespace

void linear(const float* x, int rows, int cols, const MatrixView* weights, int count, float* const* y) {
  if (rows == 0 || count == 0) return;
  const MatmulKernels& matmul = kernels().matmul;
  Activations forms[3];  // by block: none, 32, 256
  Job jobs[kMostJobs];
  for (int done = 0; done < count; done += kMostJobs) {
    const int n = std::min(kMostJobs, count - done);
    std::int64_t tasks = 0, work = 0;
    for (int i = 0; i < n; ++i) {
      const MatrixView& weight = weights[done + i];
      const int block = type_info(weight.type)->block;
      const int form = block == 1 ? 0 : block == 32 ? 1 : 2;
      const bool many = rows >= matmul.many_rows_from[weight.type];
      if (forms[form].x == nullptr) {
        if (form == 0) {
          forms[0] = {.rows = rows, .cols = cols, .stride = cols, .x = x, .int8 = {}};
        } else {
          forms[form] = quantize(x, rows, cols, block, activation_scratch[form - 1]);
        }
      }
      const int step = task_rows(weight, many);
      const std::int64_t own = (weight.rows + step - 1) / step;
      const MatmulKernel kernel = kernel_for(matmul, weight.type, many);
      jobs[i] = {&weight, &forms[form], kernel, y[done + i], step, tasks, own};
      tasks += own;
      work += weight.rows * weight.row_bytes * ((rows + 3) / 4);  // four rows of x share a reading
    }
    run_jobs(jobs, n, scratch_bytes(static_cast<std::size_t>(rows)), work);
  }
}

namespace {

// body(first, last) over [0, count) in parts, on as many threads as `bytes` of work are worth.
template <class F>
void for_ranges(std::int64_t count, std::int64_t bytes, const F& body) {
  constexpr std::int64_t kWorthSharing = 256 << 10;
  if (bytes < kWorthSharing) return body(0, count);
  ThreadPool::instance().run([&](int part, int parts) { body(count * part / parts, count * (part + 1) / parts); });
}

}  // namespace

void embed(const MatrixView& table, const std::int32_t* ids, int count, float* out) {
  const TypeInfo& type = *type_info(table.type);
  const auto blocks = static_cast<std::size_t>(table.cols / type.block);
  for_ranges(count, count * table.cols * 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i)
      type.decode(table.data + ids[i] * table.row_bytes, blocks, out + i * table.cols);
  });
}

void decode(const std::uint8_t* data, int type, std::int64_t count, float* out) {
  const TypeInfo& info = *type_info(type);
  for_ranges(count / info.block, count * 4, [&](std::int64_t first, std::int64_t last) {
    info.decode(data + first * info.bytes, static_cast<std::size_t>(last - first), out + first * info.block);
  });
}

}  // namespace pronk
