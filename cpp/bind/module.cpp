// The Python module pronk.native._core.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "pronk/kernels.hpp"
#include "pronk/thread_pool.hpp"

namespace nb = nanobind;

void bind_matmul(nb::module_& m);
void bind_layers(nb::module_& m);
void bind_encode(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_peaks(nb::module_& m);

namespace {

void bind_runtime(nb::module_& m) {
  using pronk::ThreadPool;
  m.def("isa", [] { return std::string(pronk::kernels().isa); });
  m.def("isas", [] {
    std::vector<std::string> runnable;
    for (const char* isa : {"portable", "neon", "neon_i8mm", "avx2", "avx512"}) {
      if (pronk::kernels_for(isa) != nullptr) runnable.emplace_back(isa);
    }
    return runnable;
  });
  m.def("select_isa", [](const std::string& isa) { return pronk::select_isa(isa.c_str()); });
  m.def(
      "set_threads", [](int threads) { ThreadPool::instance().resize(threads); },
      nb::call_guard<nb::gil_scoped_release>());
  m.def("threads", [] { return ThreadPool::instance().size(); });
  m.def("usable_cores", &pronk::usable_cores);
}

}  // namespace

NB_MODULE(_core, m) {
  bind_runtime(m);
  bind_matmul(m);
  bind_layers(m);
  bind_encode(m);
  bind_sampling(m);
  bind_peaks(m);
}
