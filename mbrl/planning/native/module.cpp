// Python bindings: the backward pass of iLQR, row by row.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "riccati.h"

namespace py = pybind11;

namespace mbrl {
namespace {

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

void check(const char* name, const Array& array, const std::vector<py::ssize_t>& shape) {
  if (array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
      std::equal(shape.begin(), shape.end(), array.shape())) {
    return;
  }
  std::string expected;
  for (const py::ssize_t size : shape) expected += " " + std::to_string(size);
  throw std::invalid_argument(std::string(name) + " must have the shape (" + expected + " )");
}

py::tuple backward_pass(const Array& a, const Array& b, const Array& x, const Array& u,
                        const Array& xx, const Array& ux, const Array& uu, const Array& final_x,
                        const Array& final_xx, const Array& low, const Array& high,
                        const Array& regularization, const Array& start, bool of_state) {
  if (x.ndim() != 3 || u.ndim() != 3) throw std::invalid_argument("x and u must be [T, B, n]");
  const py::ssize_t steps = u.shape(0), batch = u.shape(1), nu = u.shape(2), ndx = x.shape(2);
  check("a", a, {steps, batch, ndx, ndx});
  check("b", b, {steps, batch, ndx, nu});
  check("x", x, {steps, batch, ndx});
  check("xx", xx, {steps, batch, ndx, ndx});
  check("ux", ux, {steps, batch, nu, ndx});
  check("uu", uu, {steps, batch, nu, nu});
  check("final_x", final_x, {batch, ndx});
  check("final_xx", final_xx, {batch, ndx, ndx});
  check("low", low, {steps, batch, nu});
  check("high", high, {steps, batch, nu});
  check("regularization", regularization, {batch});
  check("start", start, {steps, batch, nu});

  Array k({steps, batch, nu}), gains({steps, batch, nu, ndx}), linear(batch), quadratic(batch);
  py::array_t<bool> good(batch);
  double *to_k = k.mutable_data(), *to_gains = gains.mutable_data();
  double *d1 = linear.mutable_data(), *d2 = quadratic.mutable_data();
  bool* kept = good.mutable_data();
  {
    py::gil_scoped_release release;
    std::fill(to_k, to_k + k.size(), 0);
    std::fill(to_gains, to_gains + gains.size(), 0);
    Riccati riccati(static_cast<int>(ndx), static_cast<int>(nu));
    for (py::ssize_t row = 0; row < batch; row++) {
      riccati.begin(final_x.data() + row * ndx, final_xx.data() + row * ndx * ndx);
      d1[row] = d2[row] = 0;
      kept[row] = true;
      py::ssize_t t = steps;
      while (kept[row] && t-- > 0) {
        const py::ssize_t at = t * batch + row;
        const Step step{a.data() + at * ndx * ndx,  b.data() + at * ndx * nu,
                        x.data() + at * ndx,        u.data() + at * nu,
                        xx.data() + at * ndx * ndx, ux.data() + at * nu * ndx,
                        uu.data() + at * nu * nu,   low.data() + at * nu,
                        high.data() + at * nu,      start.data() + at * nu};
        kept[row] = riccati.back(step, regularization.data()[row], of_state, to_k + at * nu,
                                 to_gains + at * nu * ndx, d1 + row, d2 + row);
      }
      if (kept[row]) continue;
      d1[row] = d2[row] = 0;
      for (; t < steps; t++) {
        const py::ssize_t at = t * batch + row;
        std::fill(to_k + at * nu, to_k + (at + 1) * nu, 0);
        std::fill(to_gains + at * nu * ndx, to_gains + (at + 1) * nu * ndx, 0);
      }
    }
  }
  return py::make_tuple(k, gains, linear, quadratic, good);
}

}  // namespace
}  // namespace mbrl

PYBIND11_MODULE(_riccati, module) {
  module.doc() = "The backward pass of iLQR; see mbrl/planning/riccati.py.";
  module.def("backward_pass", &mbrl::backward_pass, py::arg("a"), py::arg("b"), py::arg("x"),
             py::arg("u"), py::arg("xx"), py::arg("ux"), py::arg("uu"), py::arg("final_x"),
             py::arg("final_xx"), py::arg("low"), py::arg("high"), py::arg("regularization"),
             py::arg("start"), py::kw_only(), py::arg("of_state"));
}
