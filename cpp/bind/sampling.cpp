// Sampling for Python. Ids and lengths are checked here.
#include "pronk/sampling.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bind/arrays.hpp"

namespace nb = nanobind;
using pronk::bind::FloatArray;
using pronk::bind::In;
using pronk::bind::InOut;
using pronk::bind::new_array;
using pronk::bind::refuse;

void bind_sampling(nb::module_& m);

namespace {

using Logits = In<float, nb::ndim<1>>;
using Ids = In<std::int32_t, nb::ndim<1>>;
using Surprise = InOut<double, nb::shape<1>>;
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

bool finite(float value) {
  return value > -std::numeric_limits<float>::infinity() && value < std::numeric_limits<float>::infinity();
}

void check_ranges(const pronk::SamplingArgs& args) {
  expect(args.temperature >= 0.0f && finite(args.temperature), "temperature", args.temperature, "0 or more");
  expect(args.dynatemp_range >= 0.0f && finite(args.dynatemp_range), "dynatemp_range", args.dynatemp_range,
         "0 or more");
  expect(finite(args.dynatemp_exponent), "dynatemp_exponent", args.dynatemp_exponent, "a finite number");
  expect(args.top_k >= 0, "top_k", static_cast<double>(args.top_k), "0 (off) or more");
  expect(args.top_p >= 0.0f && args.top_p <= 1.0f, "top_p", args.top_p, "0 to 1");
  expect(args.min_p >= 0.0f && args.min_p <= 1.0f, "min_p", args.min_p, "0 to 1");
  expect(args.typical_p >= 0.0f && args.typical_p <= 1.0f, "typical_p", args.typical_p, "0 to 1");
  expect(args.top_n_sigma >= 0.0f && finite(args.top_n_sigma), "top_n_sigma", args.top_n_sigma, "0 (off) or more");
  expect(args.xtc_probability >= 0.0f && args.xtc_probability <= 1.0f, "xtc_probability", args.xtc_probability,
         "0 to 1");
  expect(args.xtc_threshold >= 0.0f && args.xtc_threshold <= 1.0f, "xtc_threshold", args.xtc_threshold, "0 to 1");
  expect(finite(args.mirostat_mu), "mirostat_mu", args.mirostat_mu, "a finite number");
  expect(args.repetition_penalty > 0.0f && finite(args.repetition_penalty), "repetition_penalty",
         args.repetition_penalty, "above 0");
  expect(finite(args.presence_penalty), "presence_penalty", args.presence_penalty, "a finite number");
  expect(finite(args.frequency_penalty), "frequency_penalty", args.frequency_penalty, "a finite number");
  expect(finite(args.dry.multiplier), "dry_multiplier", args.dry.multiplier, "a finite number");
  expect(args.dry.base >= 0.0f && finite(args.dry.base), "dry_base", args.dry.base, "0 or more");
  expect(args.dry.allowed_length >= 0, "dry_allowed_length", static_cast<double>(args.dry.allowed_length), "0 or more");
  for (const double number : {args.uniform, args.xtc_uniform}) {
    expect(number >= 0.0 && number < 1.0, "uniform", number, "0 to below 1");
  }
}

std::vector<pronk::SamplingStep> read_steps(const Ids& codes) {
  std::vector<pronk::SamplingStep> steps;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::int32_t code = codes.data()[i];
    if (code < 0 || code >= pronk::kSamplingSteps) refuse("there is no sampling step " + std::to_string(code));
    steps.push_back(static_cast<pronk::SamplingStep>(code));
  }
  return steps;
}

// (heads, tail_starts, tails): see DryArgs.
using Breakers = std::tuple<Ids, Ids, Ids>;

void read_breakers(const Breakers& breakers, std::int64_t count, pronk::DryArgs& dry) {
  const auto& [heads, starts, tails] = breakers;
  check_ids("dry_breakers", heads, count);
  const auto* first = starts.data();
  const std::size_t ends = starts.size();
  bool right = ends == heads.size() + 1 && first[0] == 0 && first[ends - 1] == static_cast<std::int64_t>(tails.size());
  for (std::size_t i = 0; right && i + 1 < ends; ++i) right = first[i] <= first[i + 1];
  for (std::size_t i = 0; right && i + 1 < heads.size(); ++i) right = heads.data()[i] <= heads.data()[i + 1];
  if (!right) refuse("dry_breakers are not rising heads with the places of their tails");
  dry.heads = heads.data();
  dry.tail_starts = first;
  dry.tails = tails.data();
  dry.breakers = static_cast<std::int64_t>(heads.size());
}

std::int32_t sample(const Logits& logits, const Ids& steps, float temperature, float dynatemp_range,
                    float dynatemp_exponent, std::int64_t top_k, float top_p, bool top_p_inclusive, float min_p,
                    float typical_p, float top_n_sigma, float xtc_probability, float xtc_threshold, double xtc_uniform,
                    float mirostat_mu, float dry_multiplier, float dry_base, std::int64_t dry_allowed_length,
                    const std::optional<Ids>& dry_history, const std::optional<Breakers>& dry_breakers,
                    float repetition_penalty, float presence_penalty, float frequency_penalty,
                    const std::optional<Ids>& seen_ids, const std::optional<Ids>& seen_counts,
                    const std::optional<Ids>& bias_ids, const std::optional<Logits>& bias_values,
                    const std::optional<Words>& allowed, double uniform, const std::optional<Surprise>& surprise) {
  const std::int64_t count = vocabulary(logits);
  const std::vector<pronk::SamplingStep> order = read_steps(steps);
  pronk::SamplingArgs args;
  args.steps = order.data();
  args.step_count = static_cast<std::int64_t>(order.size());
  args.temperature = temperature;
  args.dynatemp_range = dynatemp_range;
  args.dynatemp_exponent = dynatemp_exponent;
  args.top_k = top_k;
  args.top_p = top_p;
  args.top_p_inclusive = top_p_inclusive;
  args.min_p = min_p;
  args.typical_p = typical_p;
  args.top_n_sigma = top_n_sigma;
  args.xtc_probability = xtc_probability;
  args.xtc_threshold = xtc_threshold;
  args.xtc_uniform = xtc_uniform;
  args.mirostat_mu = mirostat_mu;
  args.dry.multiplier = dry_multiplier;
  args.dry.base = dry_base;
  args.dry.allowed_length = dry_allowed_length;
  args.repetition_penalty = repetition_penalty;
  args.presence_penalty = presence_penalty;
  args.frequency_penalty = frequency_penalty;
  args.uniform = uniform;
  check_ranges(args);
  if (dry_history) {
    check_ids("dry_history", *dry_history, count);
    args.dry.history = dry_history->data();
    args.dry.length = static_cast<std::int64_t>(dry_history->size());
  }
  if (dry_breakers) read_breakers(*dry_breakers, count, args.dry);
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
  double bits = 0.0;
  std::int32_t token;
  {
    nb::gil_scoped_release release;
    token = pronk::sample(logits.data(), count, args, &bits);
  }
  if (surprise) *surprise->data() = bits;
  return token;
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
  m.def("sample", &sample, nb::arg("logits").noconvert(), nb::kw_only(), nb::arg("steps").noconvert(),
        nb::arg("temperature"), nb::arg("dynatemp_range"), nb::arg("dynatemp_exponent"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("top_p_inclusive"), nb::arg("min_p"), nb::arg("typical_p"), nb::arg("top_n_sigma"),
        nb::arg("xtc_probability"), nb::arg("xtc_threshold"), nb::arg("xtc_uniform"), nb::arg("mirostat_mu"),
        nb::arg("dry_multiplier"), nb::arg("dry_base"), nb::arg("dry_allowed_length"),
        nb::arg("dry_history").noconvert().none(), nb::arg("dry_breakers").none(), nb::arg("repetition_penalty"),
        nb::arg("presence_penalty"), nb::arg("frequency_penalty"), nb::arg("seen_ids").noconvert().none(),
        nb::arg("seen_counts").noconvert().none(), nb::arg("bias_ids").noconvert().none(),
        nb::arg("bias_values").noconvert().none(), nb::arg("allowed").noconvert().none(), nb::arg("uniform"),
        nb::arg("surprise").noconvert().none());
  m.def("log_probabilities", &log_probabilities, nb::arg("logits").noconvert(), nb::arg("ids").noconvert());
  m.def("top_log_probabilities", &top_log_probabilities, nb::arg("logits").noconvert(), nb::arg("k"));
  m.def("uniform", &pronk::uniform, nb::arg("seed"), nb::arg("position"), nb::arg("purpose"));
}
