// Python bindings: passes through perceptrons, on arrays that share torch's memory.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

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
                              " ) and the precision of theta");
}

template <class T>
Cube<const T> cube(const char* name, const py::array& array, const Shape& shape) {
  check<T>(name, array, shape);
  const auto stride = [&](int axis) {
    return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T));
  };
  return {static_cast<const T*>(array.data()), stride(0), stride(1), stride(2)};
}

// Parameters of a network per row; Q is const T for those that are read.
template <class T, class Q>
Rows<Q> rows(const char* name, const py::array& array, const Shape& shape) {
  check<T>(name, array, shape);
  const py::ssize_t size = sizeof(T);
  if (array.strides(1) != size && shape[1] > 1) {
    throw std::invalid_argument(std::string(name) + " must have rows that lie in one piece");
  }
  return {static_cast<Q*>(const_cast<void*>(array.data())), array.strides(0) / size};
}

template <class T>
T* piece(const char* name, const py::array& array, const Shape& shape) {
  check<T>(name, array, shape);
  if (!(array.flags() & py::array::c_style)) {
    throw std::invalid_argument(std::string(name) + " must lie in one piece");
  }
  return static_cast<T*>(const_cast<void*>(array.data()));
}

// Room for panels, whose lines do not straddle the cache's.
template <class T>
class Scratch {
 public:
  explicit Scratch(const Network& network)
      : at_(static_cast<T*>(::operator new(
            static_cast<size_t>(kScratchPanels) * kBlock * network.widest() * sizeof(T), kLine))) {}
  ~Scratch() { ::operator delete(at_, kLine); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* at() const { return at_; }

 private:
  static constexpr std::align_val_t kLine{64};
  T* at_;
};

// A network of some widths, and a variant of the code.
class Bound {
 public:
  Bound(std::vector<int> widths, int copies, const std::string& variant)
      : network_{copies, std::move(widths)} {
    if (network_.layers() < 1 || copies < 1 ||
        *std::min_element(network_.widths.begin(), network_.widths.end()) < 1) {
      throw std::invalid_argument("two widths or more and copies must be positive");
    }
    for (const Variant* one : variants()) {
      if (one->name == variant) variant_ = one;
    }
    if (!variant_) throw std::invalid_argument("no such variant: " + variant);
  }

  void forward(const py::array& theta, const py::array& value, const py::array& inputs,
               const py::array& hidden, const py::array& output) const {
    dispatch(theta, value.shape(1), [&](auto zero, int seeds, int batch) {
      using T = decltype(zero);
      const auto parameters = rows<T, const T>("theta", theta, shape_of_parameters(seeds));
      const auto x = cube<T>("value", value, {seeds, batch, network_.widths.front()});
      T* const to_inputs = piece<T>("inputs", inputs, shape_of_inputs(seeds, batch));
      T* const to_hidden = piece<T>("hidden", hidden, shape_of_hidden(seeds, batch));
      T* const to_output = piece<T>("output", output, shape_of_output(seeds, batch));
      const Scratch<T> scratch(network_);
      py::gil_scoped_release release;
      passes_of<T>(*variant_).forward(network_, seeds, batch, parameters, x, to_inputs, to_hidden,
                                      to_output, scratch.at());
    });
  }

  void gradient(const py::array& theta, const py::array& inputs, const py::array& hidden,
                const py::array& cotangent, const py::array& out) const {
    dispatch(theta, cotangent.shape(1), [&](auto zero, int seeds, int batch) {
      using T = decltype(zero);
      const auto parameters = rows<T, const T>("theta", theta, shape_of_parameters(seeds));
      const T* x = piece<T>("inputs", inputs, shape_of_inputs(seeds, batch));
      const T* active = piece<T>("hidden", hidden, shape_of_hidden(seeds, batch));
      const auto v = cube<T>("cotangent", cotangent, shape_of_cotangent(seeds, batch));
      const auto to = rows<T, T>("out", out, shape_of_parameters(seeds));
      const Scratch<T> scratch(network_);
      py::gil_scoped_release release;
      passes_of<T>(*variant_).gradient(network_, seeds, batch, parameters, x, active, v, to,
                                       scratch.at());
    });
  }

  void input_gradient(const py::array& theta, const py::array& hidden,
                      const py::array& cotangent, const py::array& out) const {
    dispatch(theta, cotangent.shape(1), [&](auto zero, int seeds, int batch) {
      using T = decltype(zero);
      const auto parameters = rows<T, const T>("theta", theta, shape_of_parameters(seeds));
      const T* active = piece<T>("hidden", hidden, shape_of_hidden(seeds, batch));
      const auto v = cube<T>("cotangent", cotangent, shape_of_cotangent(seeds, batch));
      T* const to = piece<T>("out", out, {seeds, network_.widths.front(), batch});
      const Scratch<T> scratch(network_);
      py::gil_scoped_release release;
      passes_of<T>(*variant_).input_gradient(network_, seeds, batch, parameters, active, v, to,
                                             scratch.at());
    });
  }

  void derivative(const py::array& theta, const py::array& inputs, const py::array& hidden,
                  const py::array& tangent, const py::array& out) const {
    dispatch(theta, out.shape(2), [&](auto zero, int seeds, int batch) {
      using T = decltype(zero);
      const auto parameters = rows<T, const T>("theta", theta, shape_of_parameters(seeds));
      const T* x = piece<T>("inputs", inputs, shape_of_inputs(seeds, batch));
      const T* active = piece<T>("hidden", hidden, shape_of_hidden(seeds, batch));
      const auto z = rows<T, const T>("tangent", tangent, shape_of_parameters(seeds));
      T* const to = piece<T>("out", out, shape_of_output(seeds, batch));
      const Scratch<T> scratch(network_);
      py::gil_scoped_release release;
      passes_of<T>(*variant_).derivative(network_, seeds, batch, parameters, x, active, z, to,
                                         scratch.at());
    });
  }

 private:
  template <class F>
  void dispatch(const py::array& theta, py::ssize_t batch, F f) const {
    const int seeds = static_cast<int>(theta.shape(0)), rows = static_cast<int>(batch);
    if (theta.dtype().is(py::dtype::of<float>())) {
      f(float(), seeds, rows);
    } else if (theta.dtype().is(py::dtype::of<double>())) {
      f(double(), seeds, rows);
    } else {
      throw std::invalid_argument("theta must be of single or double precision");
    }
  }

  Shape shape_of_parameters(int seeds) const {
    return {seeds, network_.copies * network_.size()};
  }
  Shape shape_of_inputs(int seeds, int batch) const {
    return {seeds, blocks_of(batch), network_.widths.front(), kBlock};
  }
  Shape shape_of_hidden(int seeds, int batch) const {
    return {seeds * network_.copies, blocks_of(batch), network_.hidden(), kBlock};
  }
  Shape shape_of_output(int seeds, int batch) const {
    return {seeds * network_.copies, network_.widths.back(), batch};
  }
  Shape shape_of_cotangent(int seeds, int batch) const {
    return {seeds * network_.copies, batch, network_.widths.back()};
  }

  Network network_;
  const Variant* variant_ = nullptr;
};

}  // namespace
}  // namespace mbrl

PYBIND11_MODULE(_perceptron, module) {
  using mbrl::Bound;
  module.doc() = "Passes through perceptrons; see mbrl/nn/flat_mlp.py.";
  module.attr("BLOCK") = mbrl::kBlock;
  std::vector<std::string> names;
  for (const mbrl::Variant* one : mbrl::variants()) names.emplace_back(one->name);
  module.attr("VARIANTS") = names;
  py::class_<Bound>(module, "Network")
      .def(py::init<std::vector<int>, int, const std::string&>(), py::arg("widths"),
           py::arg("copies"), py::arg("variant"))
      .def("forward", &Bound::forward)
      .def("gradient", &Bound::gradient)
      .def("input_gradient", &Bound::input_gradient)
      .def("derivative", &Bound::derivative);
}
