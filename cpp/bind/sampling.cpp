// Sampling for Python. Ids and lengths are checked here.
#include "pronk/sampling.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "bind/arrays.hpp"

namespace nb = nanobind;
using pronk::bind::FloatArray;
using pronk::bind::In;
using pronk::bind::new_array;
using pronk::bind::refuse;

void bind_sampling(nb::module_& m);

namespace {

using Logits = In<float, nb::ndim<1>>;
using Ids = In<std::int32_t, nb::ndim<1>>;
using Words = In<std::uint32_t, nb::ndim<1>>;
using IdArray = nb::ndarray<std::int32_t, nb::numpy, nb::c_contig>;

std::int64_t vocabulary(const Logits& logits) {
  const auto count = static_cast<std::int64_t>(logits.size());
  if (count < 1 || count > std::numeric_limits<std::int32_t>::max() / 2) {
    refuse(std::to_string(count) + " logits, expected at least one");
  }
  return count;
}

void check_ids(const char* name, const Ids& ids, std::int64_t count) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids.data()[i] < 0 || ids.data()[i] >= count) {
      refuse(std::string(name) + ": id " + std::to_string(ids.data()[i]) + " is outside the " + std::to_string(count) +
             " logits");
    }
  }
}

void expect(bool right, const char* name, double value, const char* range) {
  if (!right) refuse(std::string(name) + " is " + std::to_string(value) + ", expected " + range);
}

void check_ranges(const pronk::SamplingArgs& args) {
  const float limit = std::numeric_limits<float>::infinity();
  expect(args.temperature >= 0.0f && args.temperature < limit, "temperature", args.temperature, "0 or more");
  expect(args.top_k >= 0, "top_k", static_cast<double>(args.top_k), "0 (off) or more");
  expect(args.top_p >= 0.0f && args.top_p <= 1.0f, "top_p", args.top_p, "0 to 1");
  expect(args.min_p >= 0.0f && args.min_p <= 1.0f, "min_p", args.min_p, "0 to 1");
  expect(args.typical_p >= 0.0f && args.typical_p <= 1.0f, "typical_p", args.typical_p, "0 to 1");
  expect(args.repetition_penalty > 0.0f && args.repetition_penalty < limit, "repetition_penalty",
         args.repetition_penalty, "above 0");
  expect(args.presence_penalty > -limit && args.presence_penalty < limit, "presence_penalty", args.presence_penalty,
         "a finite number");
  expect(args.frequency_penalty > -limit && args.frequency_penalty < limit, "frequency_penalty", args.frequency_penalty,
         "a finite number");
  expect(args.uniform >= 0.0 && args.uniform < 1.0, "uniform", args.uniform, "0 to below 1");
}

std::int32_t sample(const Logits& logits, float temperature, std::int64_t top_k, float top_p, float min_p,
                    float typical_p, bool temperature_first, float repetition_penalty, float presence_penalty,
                    float frequency_penalty, const std::optional<Ids>& seen_ids, const std::optional<Ids>& seen_counts,
                    const std::optional<Ids>& bias_ids, const std::optional<Logits>& bias_values,
                    const std::optional<Words>& allowed, double uniform) {
  const std::int64_t count = vocabulary(logits);
  pronk::SamplingArgs args;
  args.temperature = temperature;
  args.top_k = top_k;
  args.top_p = top_p;
  args.min_p = min_p;
  args.typical_p = typical_p;
  args.temperature_first = temperature_first;
  args.repetition_penalty = repetition_penalty;
  args.presence_penalty = presence_penalty;
  args.frequency_penalty = frequency_penalty;
  args.uniform = uniform;
  check_ranges(args);
  if (seen_ids.has_value() != seen_counts.has_value() || (seen_ids && seen_ids->size() != seen_counts->size())) {
    refuse("seen_ids and seen_counts belong together, one count for each id");
  }
  if (seen_ids) {
    check_ids("seen_ids", *seen_ids, count);
    args.seen_ids = seen_ids->data();
    args.seen_counts = seen_counts->data();
    args.seen = static_cast<std::int64_t>(seen_ids->size());
  }
  if (bias_ids.has_value() != bias_values.has_value() || (bias_ids && bias_ids->size() != bias_values->size())) {
    refuse("bias_ids and bias_values belong together, one value for each id");
  }
  if (bias_ids) {
    check_ids("bias_ids", *bias_ids, count);
    args.bias_ids = bias_ids->data();
    args.bias_values = bias_values->data();
    args.biases = static_cast<std::int64_t>(bias_ids->size());
  }
  if (allowed) {
    if (static_cast<std::int64_t>(allowed->size()) != (count + 31) / 32) {
      refuse("allowed has " + std::to_string(allowed->size()) + " words, expected " +
             std::to_string((count + 31) / 32));
    }
    args.allowed = allowed->data();
  }
  nb::gil_scoped_release release;
  return pronk::sample(logits.data(), count, args);
}

// None where the logits are no numbers: the Python face has the words for it.
nb::object log_probabilities(const Logits& logits, const Ids& ids) {
  const std::int64_t count = vocabulary(logits);
  check_ids("ids", ids, count);
  FloatArray out = new_array({ids.size()});
  bool finite;
  {
    nb::gil_scoped_release release;
    finite =
        pronk::log_probabilities(logits.data(), count, ids.data(), static_cast<std::int64_t>(ids.size()), out.data());
  }
  return finite ? nb::cast(out) : nb::none();
}

nb::object top_log_probabilities(const Logits& logits, std::int64_t k) {
  const std::int64_t count = vocabulary(logits);
  if (k < 0) refuse("k is " + std::to_string(k) + ", expected 0 or more");
  k = k < count ? k : count;
  const auto size = static_cast<std::size_t>(k);
  FloatArray out = new_array({size});
  auto* ids = new std::int32_t[size + 1];
  const nb::capsule owner(ids, [](void* p) noexcept { delete[] static_cast<std::int32_t*>(p); });
  bool finite;
  {
    nb::gil_scoped_release release;
    finite = pronk::top_log_probabilities(logits.data(), count, k, ids, out.data());
  }
  if (!finite) return nb::none();
  return nb::make_tuple(IdArray(ids, {size}, owner), out);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("sample", &sample, nb::arg("logits").noconvert(), nb::kw_only(), nb::arg("temperature"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("min_p"), nb::arg("typical_p"), nb::arg("temperature_first"),
        nb::arg("repetition_penalty"), nb::arg("presence_penalty"), nb::arg("frequency_penalty"),
        nb::arg("seen_ids").noconvert().none(), nb::arg("seen_counts").noconvert().none(),
        nb::arg("bias_ids").noconvert().none(), nb::arg("bias_values").noconvert().none(),
        nb::arg("allowed").noconvert().none(), nb::arg("uniform"));
  m.def("log_probabilities", &log_probabilities, nb::arg("logits").noconvert(), nb::arg("ids").noconvert());
  m.def("top_log_probabilities", &top_log_probabilities, nb::arg("logits").noconvert(), nb::arg("k"));
  m.def("uniform", &pronk::uniform, nb::arg("seed"), nb::arg("position"));
}
