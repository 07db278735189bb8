// Python bindings: passes through perceptrons and Adam, on arrays that share torch's memory.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "crew.h"
#include "perceptron.h"

namespace py = pybind11;

namespace mbrl {
namespace {

using Shape = std::vector<py::ssize_t>;

template <class T>
const Passes<T>& passes_of(const Variant& variant) {
  if constexpr (std::is_same_v<T, float>) {
    return variant.single;
  } else {
    return variant.twofold;
  }
}

template <class T>
void check(const char* name, const py::array& array, const Shape& shape) {
  const bool same = array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
                    std::equal(shape.begin(), shape.end(), array.shape());
  if (same && array.dtype().is(py::dtype::of<T>())) return;
  std::string expected;
  for (const py::ssize_t size : shape) expected += " " + std::to_string(size);
  throw std::invalid_argument(std::string(name) + " must have the shape (" + expected +
                              " ) and all the same precision, single or double");
}

template <class T>
Cube<const T> cube(const char* name, const py::array& array, const Shape& shape) {
  check<T>(name, array, shape);
  const auto stride = [&](int axis) {
    return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T));
  };
  return {static_cast<const T*>(array.data()), stride(0), stride(1), stride(2)};
}

// Memory whose panels' lines do not straddle those of the cache.
class Memory {
 public:
  explicit Memory(size_t bytes) : at_(::operator new(bytes, kLine)) {}
  ~Memory() { ::operator delete(at_, kLine); }
  Memory(Memory&& other) noexcept : at_(std::exchange(other.at_, nullptr)) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* at() const { return at_; }

 private:
  static constexpr std::align_val_t kLine{64};
  void* at_;
};

// Products of a pass for which a thread is woken: some 50 microseconds of them.
constexpr double kWorthAThread = 1e6;
// Numbers that Adam changes for which one is: 20 microseconds of them.
constexpr py::ssize_t kNumbersWorthAThread = 8192;

constexpr const char* kOfAdam[] = {"values", "first", "second", "gradient"};

const Variant& variant_of(const std::string& name) {
  for (const Variant* one : variants()) {
    if (one->name == name) return *one;
  }
  throw std::invalid_argument("no such variant: " + name);
}

// Seeds that one thread works on.
struct Part {
  int first, count;
};

// What a forward pass leaves: panels of the input and of the hidden layers.
struct Tape {
  Tape(const Network& network, int seeds, int batch, size_t item)
      : seeds(seeds),
        batch(batch),
        item(item),
        inputs(seeds * blocks_of(batch) * item * kBlock * network.inputs),
        hidden(seeds * network.copies * blocks_of(batch) * item * kBlock * network.hidden) {}

  int seeds, batch;
  size_t item;  // bytes of a number
  Memory inputs, hidden;
};

// A network of some widths, and a variant of the code.
class Bound {
  template <class T>
  struct Scratch : Memory {
    explicit Scratch(const Network& network)
        : Memory(sizeof(T) * kScratchPanels * kBlock * network.widest) {}
    T* at() const { return static_cast<T*>(Memory::at()); }
  };

  template <class F>
  static auto in_precision(size_t item, F f) {
    return item == sizeof(float) ? f(float()) : f(double());
  }

  // Call f(part, scratch) for parts of the seeds, on as many threads as are worth waking.
  template <class T, class F>
  void in_parts(int seeds, int batch, int threads, F f) const {
    const double work = double(network_.copies) * network_.size * batch;  // of a seed
    const int most = static_cast<int>(std::min<double>(threads, seeds * work / kWorthAThread));
    const int parts = std::max(1, std::min(most, seeds));
    std::vector<Scratch<T>> scratch;
    for (int i = 0; i < parts; i++) scratch.emplace_back(network_);
    py::gil_scoped_release release;
    share(parts, [&](int i) {
      const int first = i * seeds / parts, end = (i + 1) * seeds / parts;
      f({first, end - first}, scratch[i].at());
    });
  }

  template <class Q>
  static Rows<Q> of(Rows<Q> all, Part part) {
    return {all.at + part.first * all.seed, all.seed};
  }

  template <class Q>
  static Cube<Q> of(Cube<Q> all, Part part, int each) {
    return {all.at + std::ptrdiff_t{part.first} * each * all.leading, all.leading, all.row,
            all.column};
  }

  template <class T>
  T* inputs_of(const Tape& tape, Part part) const {
    return static_cast<T*>(tape.inputs.at()) +
           std::ptrdiff_t{part.first} * blocks_of(tape.batch) * kBlock * network_.inputs;
  }

  template <class T>
  T* hidden_of(const Tape& tape, Part part) const {
    return static_cast<T*>(tape.hidden.at()) + std::ptrdiff_t{part.first} * network_.copies *
                                                   blocks_of(tape.batch) * kBlock *
                                                   network_.hidden;
  }

  static std::ptrdiff_t made_before(Part part, int columns, int batch) {
    return std::ptrdiff_t{part.first} * columns * batch;
  }

  template <class T>
  static py::array_t<T> made(int leading, int columns, int batch) {
    return py::array_t<T>(Shape{leading, columns, batch});
  }

  template <class T, class Q>
  Rows<Q> parameters_of(const char* name, const py::array& array, int seeds) const {
    const Shape shape{seeds, network_.copies * network_.size};
    check<T>(name, array, shape);
    const py::ssize_t size = sizeof(T);
    if (array.strides(1) != size && shape[1] > 1) {
      throw std::invalid_argument(std::string(name) + " must have rows that lie in one piece");
    }
    return {static_cast<Q*>(const_cast<void*>(array.data())), array.strides(0) / size};
  }

  template <class T>
  Cube<const T> cotangent_of(const py::array& cotangent, const Tape& tape) const {
    return cube<T>("cotangent", cotangent,
                   {tape.seeds * network_.copies, tape.batch, network_.outputs});
  }

 public:
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  Bound(std::vector<int> widths, int copies, const std::string& variant)
      : widths_(std::move(widths)), variant_(&variant_of(variant)) {
    if (widths_.size() < 2 || copies < 1 ||
        *std::min_element(widths_.begin(), widths_.end()) < 1) {
      throw std::invalid_argument("two widths or more and copies must be positive");
    }
    network_ = {copies,
                static_cast<int>(widths_.size()) - 1,
                widths_.data(),
                widths_.front(),
                std::accumulate(widths_.begin() + 1, widths_.end() - 1, 0),
                widths_.back(),
                *std::max_element(widths_.begin(), widths_.end()),
                0};
    for (int i = 0; i < network_.layers; i++) {
      network_.size += (widths_[i] + py::ssize_t{1}) * widths_[i + 1];
    }
  }

  py::tuple forward(const py::array& theta, const py::array& value, int threads) const {
    check_dimensions(theta, value);
    const int seeds = static_cast<int>(theta.shape(0)), batch = static_cast<int>(value.shape(1));
    auto tape = std::make_unique<Tape>(network_, seeds, batch, theta.itemsize());
    auto output = passed(theta, value, tape.get(), threads);
    return py::make_tuple(std::move(tape), output);
  }

  py::array output(const py::array& theta, const py::array& value, int threads) const {
    check_dimensions(theta, value);
    return passed(theta, value, nullptr, threads);
  }

  void gradient(const py::array& theta, const Tape& tape, const py::array& cotangent,
                const py::array& out, int threads) const {
    in_precision(tape.item, [&](auto zero) {
      using T = decltype(zero);
      const auto parameters = parameters_of<T, const T>("theta", theta, tape.seeds);
      const auto v = cotangent_of<T>(cotangent, tape);
      const auto to = parameters_of<T, T>("out", out, tape.seeds);
      in_parts<T>(tape.seeds, tape.batch, threads, [&](Part part, T* scratch) {
        passes_of<T>(*variant_).gradient(network_, part.count, tape.batch, of(parameters, part),
                                         inputs_of<T>(tape, part), hidden_of<T>(tape, part),
                                         of(v, part, network_.copies), of(to, part), scratch);
      });
    });
  }

  py::array input_gradient(const py::array& theta, const Tape& tape, const py::array& cotangent,
                           int threads) const {
    return in_precision(tape.item, [&](auto zero) -> py::array {
      using T = decltype(zero);
      const auto parameters = parameters_of<T, const T>("theta", theta, tape.seeds);
      const auto v = cotangent_of<T>(cotangent, tape);
      auto out = made<T>(tape.seeds, network_.inputs, tape.batch);
      T* const to = out.mutable_data();
      in_parts<T>(tape.seeds, tape.batch, threads, [&](Part part, T* scratch) {
        passes_of<T>(*variant_).input_gradient(
            network_, part.count, tape.batch, of(parameters, part), hidden_of<T>(tape, part),
            of(v, part, network_.copies), to + made_before(part, network_.inputs, tape.batch),
            scratch);
      });
      return out;
    });
  }

  py::array derivative(const py::array& theta, const Tape& tape, const py::array& tangent,
                       int threads) const {
    return in_precision(tape.item, [&](auto zero) -> py::array {
      using T = decltype(zero);
      const auto parameters = parameters_of<T, const T>("theta", theta, tape.seeds);
      const auto z = parameters_of<T, const T>("tangent", tangent, tape.seeds);
      auto out = made<T>(tape.seeds * network_.copies, network_.outputs, tape.batch);
      T* const to = out.mutable_data();
      in_parts<T>(tape.seeds, tape.batch, threads, [&](Part part, T* scratch) {
        passes_of<T>(*variant_).derivative(
            network_, part.count, tape.batch, of(parameters, part), inputs_of<T>(tape, part),
            hidden_of<T>(tape, part), of(z, part),
            to + made_before(part, network_.copies * network_.outputs, tape.batch), scratch);
      });
      return out;
    });
  }

 private:
  static void check_dimensions(const py::array& theta, const py::array& value) {
    if (theta.ndim() != 2 || value.ndim() != 3) {
      throw std::invalid_argument("theta must be [S, P] and value [S, B, n]");
    }
  }

  py::array passed(const py::array& theta, const py::array& value, const Tape* tape,
                   int threads) const {
    const int seeds = static_cast<int>(theta.shape(0)), batch = static_cast<int>(value.shape(1));
    return in_precision(theta.itemsize(), [&](auto zero) -> py::array {
      using T = decltype(zero);
      const auto parameters = parameters_of<T, const T>("theta", theta, seeds);
      const auto x = cube<T>("value", value, {seeds, batch, network_.inputs});
      auto output = made<T>(seeds * network_.copies, network_.outputs, batch);
      T* const to = output.mutable_data();
      in_parts<T>(seeds, batch, threads, [&](Part part, T* scratch) {
        passes_of<T>(*variant_).forward(
            network_, part.count, batch, of(parameters, part), of(x, part, 1),
            tape ? inputs_of<T>(*tape, part) : nullptr, tape ? hidden_of<T>(*tape, part) : nullptr,
            to + made_before(part, network_.copies * network_.outputs, batch), scratch);
      });
      return output;
    });
  }

  std::vector<int> widths_;
  Network network_;
  const Variant* variant_;
};

template <class T>
void adam(const Variant& variant, const std::array<py::array, 4>& arrays, const AdamStep& step,
          int threads) {
  const Shape shape(arrays[0].shape(), arrays[0].shape() + arrays[0].ndim());
  T* at[4];
  for (int i = 0; i < 4; i++) {
    check<T>(kOfAdam[i], arrays[i], shape);
    if (!(arrays[i].flags() & py::array::c_style)) {
      throw std::invalid_argument(std::string(kOfAdam[i]) + " must lie in one piece");
    }
    at[i] = static_cast<T*>(const_cast<void*>(arrays[i].data()));
  }
  const py::ssize_t count = arrays[0].size();
  const int parts = static_cast<int>(
      std::max<py::ssize_t>(1, std::min<py::ssize_t>(threads, count / kNumbersWorthAThread)));
  py::gil_scoped_release release;
  share(parts, [&](int part) {
    const py::ssize_t begin = part * count / parts, end = (part + 1) * count / parts;
    passes_of<T>(variant).adam(end - begin, step, at[3] + begin, at[0] + begin, at[1] + begin,
                               at[2] + begin);
  });
}

void adam_step(py::array values, py::array first, py::array second, py::array gradient,
               long number, double lr, std::pair<double, double> decays, double eps,
               const std::string& variant, int threads) {
  const AdamStep step{lr,
                      decays.first,
                      decays.second,
                      eps,
                      number == 1,
                      lr / (1 - std::pow(decays.first, number)),
                      1 / std::sqrt(1 - std::pow(decays.second, number))};
  const auto of = values.itemsize() == sizeof(float) ? adam<float> : adam<double>;
  of(variant_of(variant), {values, first, second, gradient}, step, threads);
}

}  // namespace
}  // namespace mbrl

PYBIND11_MODULE(_perceptron, module) {
  using mbrl::Bound;
  module.doc() = "Passes through perceptrons; see mbrl/nn/flat_mlp.py.";
  std::vector<std::string> names;
  for (const mbrl::Variant* one : mbrl::variants()) names.emplace_back(one->name);
  module.attr("VARIANTS") = names;
  module.def("adam_step", &mbrl::adam_step);
  py::class_<mbrl::Tape>(module, "Tape");
  py::class_<Bound>(module, "Network")
      .def(py::init<std::vector<int>, int, const std::string&>(), py::arg("widths"),
           py::arg("copies"), py::arg("variant"))
      .def("forward", &Bound::forward)
      .def("output", &Bound::output)
      .def("gradient", &Bound::gradient)
      .def("input_gradient", &Bound::input_gradient)
      .def("derivative", &Bound::derivative);
}
