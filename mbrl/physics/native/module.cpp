// Python bindings: Jacobians of many states at once on libmujoco's own thread pool.

#include <mujoco/mujoco.h>
#include <mujoco/mjbatch.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "control_step.h"
#include "plan.h"

namespace py = pybind11;

namespace mbrl {
namespace {

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

struct Job {
  const Plan* plan;
  const double *states, *ctrls;
  double *A, *B;
  int* status;
  int frame_skip;
  double eps;
  bool centered;
};

// One per thread: buffers that outlive the calls, so that no destructor is skipped when MuJoCo
// leaves a call by longjmp.
ControlStep& workspace() {
  static thread_local ControlStep step;
  return step;
}

void load(const Job& job, mjData* d, int row) {
  const Plan& p = *job.plan;
  const double* x = job.states + static_cast<size_t>(row) * p.nx;
  mju_copy(d->qpos, x, p.nq);
  mju_copy(d->qvel, x + p.nq, p.nv);
  mju_copy(d->act, x + p.nq + p.nv, p.na);
  mju_copy(d->ctrl, job.ctrls + static_cast<size_t>(row) * p.nu, p.nu);
  mju_zero(d->qacc_warmstart, p.nv);
  d->time = 0;
  for (int i = 0; i < mjNWARNING; i++) d->warning[i].number = 0;
}

void implicit_row(const mjModel* m, mjData* d, int row, void* argument) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& p = *job.plan;
  job.status[row] = static_cast<int>(Status::kError);  // stays if MuJoCo does not come back
  load(job, d, row);
  ControlStep& step = workspace();
  const Status status = step.linearize(p, m, d, job.frame_skip, job.eps);
  job.status[row] = static_cast<int>(status);
  if (status != Status::kOk) return;
  double* A = job.A + static_cast<size_t>(row) * p.ndx * p.ndx;
  double* B = job.B + static_cast<size_t>(row) * p.ndx * p.nu;
  for (int i = 0; i < p.ndx; i++) {
    const double* t = step.tangents() + i * p.columns;
    mju_copy(A + i * p.ndx, t, p.ndx);
    mju_copy(B + i * p.nu, t + p.ndx, p.nu);
  }
}

class Engine {
 public:
  Engine(std::uintptr_t model, int threads, const Array& low, const Array& high)
      : model_(reinterpret_cast<const mjModel*>(model)), threads_(threads), plan_(model_) {
    if (low.size() != plan_.na + plan_.nu || high.size() != low.size()) {
      throw std::invalid_argument("low and high must have na + nu numbers");
    }
    plan_.low.assign(low.data(), low.data() + low.size());
    plan_.high.assign(high.data(), high.data() + high.size());
  }

  ~Engine() { mjb_deleteBatch(batch_); }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  py::tuple linearize(const Array& states, const Array& ctrls, int frame_skip, double eps) {
    return run(implicit_row, states, ctrls, frame_skip, eps, false);
  }

 private:
  py::tuple run(mjfBatchFunc function, const Array& states, const Array& ctrls, int frame_skip,
                double eps, bool centered) {
    const int rows = check(states, ctrls);
    py::array_t<double> A({rows, plan_.ndx, plan_.ndx}), B({rows, plan_.ndx, plan_.nu});
    py::array_t<int> status(rows);
    Job job{&plan_,          states.data(),  ctrls.data(),          A.mutable_data(),
            B.mutable_data(), status.mutable_data(), frame_skip, eps, centered};
    reserve(rows);
    {
      py::gil_scoped_release release;
      mjb_apply(batch_, ids_.data(), rows, function, &job, 0);
    }
    return py::make_tuple(A, B, status);
  }

  int check(const Array& states, const Array& ctrls) const {
    if (states.ndim() != 2 || states.shape(1) != plan_.nx || ctrls.ndim() != 2 ||
        ctrls.shape(1) != plan_.nu || ctrls.shape(0) != states.shape(0)) {
      throw std::invalid_argument("states must be [B, nx] and ctrls [B, nu]");
    }
    return static_cast<int>(states.shape(0));
  }

  void reserve(int rows) {
    if (batch_ && rows <= static_cast<int>(ids_.size())) return;
    int capacity = 1;
    while (capacity < rows) capacity *= 2;
    mjBatchConfig config;
    mjb_defaultConfig(&config);
    config.nthread = threads_;
    char error[500] = "";
    mjBatch* made = mjb_makeBatch(model_, capacity, &config, error, sizeof error);
    if (!made) throw std::runtime_error(error);
    mjb_deleteBatch(batch_);
    batch_ = made;
    ids_.resize(capacity);
    for (int i = 0; i < capacity; i++) ids_[i] = i;
  }

  const mjModel* model_;
  int threads_;
  Plan plan_;
  mjBatch* batch_ = nullptr;
  std::vector<int> ids_;
};

}  // namespace
}  // namespace mbrl

PYBIND11_MODULE(_engine, module) {
  module.doc() = "Jacobians of MuJoCo's control step by implicit differentiation.";
  module.attr("BUILT_FOR") = mjVERSION_HEADER;
  module.def("running_version", &mj_version);
  module.def("unsupported", [](std::uintptr_t model) {
    return mbrl::unsupported(reinterpret_cast<const mjModel*>(model));
  });
  py::class_<mbrl::Engine>(module, "Engine")
      .def(py::init<std::uintptr_t, int, const mbrl::Array&, const mbrl::Array&>())
      .def("linearize", &mbrl::Engine::linearize);
}
