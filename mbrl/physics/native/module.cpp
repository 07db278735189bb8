// Python bindings: Jacobians of many states at once on libmujoco's own thread pool.

#include <mujoco/mujoco.h>
#include <mujoco/mjbatch.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "control_step.h"
#include "dense.h"
#include "plan.h"
#include "sensing.h"

namespace py = pybind11;

namespace mbrl {
namespace {

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;  // where processes do not fork
#endif
}

struct Job {
  const Plan* plan;
  const double *states, *ctrls;
  double *A, *B;
  int* status;
  int outputs, frame_skip;
  double eps;
  bool centered;
  bool own_models = false;  // the rows' models differ from the plan's
};

// One per thread: buffers that outlive the calls, so that no destructor is skipped when MuJoCo
// leaves a call by longjmp.
ControlStep& workspace() {
  static thread_local ControlStep step;
  return step;
}

// The plan of the row's own model, if its fields are its own: damping may have become zero.
const Plan& plan_of(const Job& job, const mjModel* m) {
  if (!job.own_models) return *job.plan;
  static thread_local std::unique_ptr<Plan> own;
  own.reset(new Plan(m));
  own->low = job.plan->low;
  own->high = job.plan->high;
  return *own;
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

// Split [A B] or [C D] (outputs, ndx + nu).
void write(const Job& job, int row, const double* tangents) {
  const Plan& p = *job.plan;
  double* A = job.A + static_cast<size_t>(row) * job.outputs * p.ndx;
  double* B = job.B + static_cast<size_t>(row) * job.outputs * p.nu;
  for (int i = 0; i < job.outputs; i++) {
    const double* t = tangents + i * p.columns;
    mju_copy(A + i * p.ndx, t, p.ndx);
    mju_copy(B + i * p.nu, t + p.ndx, p.nu);
  }
}

void implicit_row(const mjModel* m, mjData* d, int row, void* argument) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& p = plan_of(job, m);
  if (job.own_models && !unsupported(m).empty()) {
    job.status[row] = static_cast<int>(Status::kEquations);
    return;
  }
  job.status[row] = static_cast<int>(Status::kError);  // stays if MuJoCo does not come back
  load(job, d, row);
  ControlStep& step = workspace();
  const Status status = step.linearize(p, m, d, job.frame_skip, job.eps);
  job.status[row] = static_cast<int>(status);
  if (status != Status::kOk) return;
  write(job, row, step.tangents());
}

void sensor_row(const mjModel* m, mjData* d, int row, void* argument) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& p = *job.plan;
  job.status[row] = static_cast<int>(Status::kError);
  load(job, d, row);
  static thread_local std::vector<double> slopes;
  const int ns = static_cast<int>(m->nsensordata);
  slopes.resize(static_cast<size_t>(ns) * p.columns);
  const Status status =
      workspace().sensors(p, m, d, job.frame_skip, job.eps, slopes.data());
  job.status[row] = static_cast<int>(status);
  if (status == Status::kOk) write(job, row, slopes.data());
}

struct SensingJob {
  Job job;  // without derivatives A is null
  const Sensing* sensing;
  double* values;
};

void sensing_row(const mjModel* m, mjData* d, int row, void* argument) {
  const SensingJob& all = *static_cast<const SensingJob*>(argument);
  const Job& job = all.job;
  const size_t size = job.outputs, ndx = job.plan->ndx;
  job.status[row] = static_cast<int>(Status::kError);
  load(job, d, row);
  double* values = all.values + row * size;
  bool good = true;
  if (job.A) {
    double* jacobian = job.A + row * size * ndx;
    all.sensing->differentiate(m, d, job.eps, values, jacobian);
    for (size_t i = 0; i < size * ndx; i++) good = good && std::isfinite(jacobian[i]);
  } else {
    all.sensing->evaluate(m, d, values);
  }
  for (size_t i = 0; i < size; i++) good = good && std::isfinite(values[i]);
  for (int i = 0; i < mjNWARNING; i++) good = good && d->warning[i].number == 0;
  job.status[row] = static_cast<int>(good ? Status::kOk : Status::kDiverged);
}

// The chain of mjd_transitionFD over the substeps.
void transition_row(const mjModel* m, mjData* d, int row, void* argument) {
  const Job& job = *static_cast<const Job*>(argument);
  const Plan& p = *job.plan;
  static thread_local std::vector<double> chain, next, a, b;
  const size_t n = p.columns, ndx = p.ndx;
  if (chain.size() != ndx * n || a.size() != ndx * ndx) {
    chain.assign(ndx * n, 0);
    next.assign(ndx * n, 0);
    a.assign(ndx * ndx, 0);
    b.assign(ndx * p.nu, 0);
  }
  job.status[row] = static_cast<int>(Status::kError);
  load(job, d, row);
  std::fill(chain.begin(), chain.end(), 0);
  for (int i = 0; i < p.ndx; i++) chain[i * n + i] = 1;
  for (int k = 0; k < job.frame_skip; k++) {
    mjd_transitionFD(m, d, job.eps, job.centered, a.data(), b.data(), nullptr, nullptr);
    for (int i = 0; i < p.ndx; i++) {
      std::fill(&next[i * n], &next[i * n + p.ndx], 0);
      std::copy(&b[i * p.nu], &b[i * p.nu] + p.nu, &next[i * n + p.ndx]);
    }
    multiply_add(next.data(), a.data(), p.ndx, chain.data(), p.ndx, p.ndx, p.columns);
    chain.swap(next);
    mj_step(m, d);
  }
  bool good = true;
  for (int i = 0; i < mjNWARNING; i++) good = good && d->warning[i].number == 0;
  for (const double x : chain) good = good && std::isfinite(x);
  job.status[row] = static_cast<int>(good ? Status::kOk : Status::kDiverged);
  write(job, row, chain.data());
}

class Engine {
 public:
  Engine(std::uintptr_t model, int threads, const Array& low, const Array& high,
         std::vector<std::string> fields)
      : model_(reinterpret_cast<const mjModel*>(model)),
        threads_(threads),
        plan_(model_),
        fields_(std::move(fields)) {
    if (low.size() != plan_.na + plan_.nu || high.size() != low.size()) {
      throw std::invalid_argument("low and high must have na + nu numbers");
    }
    plan_.low.assign(low.data(), low.data() + low.size());
    plan_.high.assign(high.data(), high.data() + high.size());
  }

  ~Engine() { drop(); }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // With ``values``, one array [B, size] per field named at construction, every row has a model of
  // its own; ``derive`` recomputes the constants that MuJoCo derives from such fields.
  py::tuple linearize(const Array& states, const Array& ctrls, int frame_skip, double eps,
                      const std::vector<Array>& values, bool derive) {
    const int rows = check(states, ctrls);
    reserve(rows);
    if (values.size() != fields_.size()) throw std::invalid_argument("one array a field expected");
    for (size_t k = 0; k < fields_.size(); k++) {
      if (values[k].ndim() != 2 || values[k].shape(0) != rows || values[k].shape(1) != sizes_[k]) {
        throw std::invalid_argument("values of " + fields_[k] + " have a wrong shape");
      }
      std::copy(values[k].data(), values[k].data() + values[k].size(), storage_[k]);
    }
    if (derive) {
      py::gil_scoped_release release;
      if (mjb_setConst(batch_, ids_.data(), rows)) throw std::runtime_error("MuJoCo refuses the values (mj_setConst)");
    }
    return run(implicit_row, states, ctrls, plan_.ndx, frame_skip, eps, false);
  }

  py::tuple sensors(const Array& states, const Array& ctrls, int frame_skip, double eps) {
    const int outputs = static_cast<int>(model_->nsensordata);
    return run(sensor_row, states, ctrls, outputs, frame_skip, eps, false);
  }

  // Values [B, m] of probes [k, 3], see Probe, and their Jacobian [B, m, ndx] if asked for.
  py::tuple sense(const Array& states, const Array& ctrls,
                  const std::vector<std::array<int, 3>>& probes, double eps, bool derivatives) {
    const int rows = check(states, ctrls);
    std::vector<Probe> wanted;
    for (const auto& [kind, type, id] : probes) wanted.push_back({kind, type, id});
    const Sensing sensing(model_, std::move(wanted));
    const int outputs = sensing.size();
    py::array_t<double> values({rows, outputs});
    py::array_t<double> jacobian({derivatives ? rows : 0, outputs, plan_.ndx});
    py::array_t<int> status(rows);
    Job job{&plan_,  states.data(), ctrls.data(), derivatives ? jacobian.mutable_data() : nullptr,
            nullptr, status.mutable_data(), outputs, 0, eps, false};
    SensingJob all{job, &sensing, values.mutable_data()};
    reserve(rows);
    {
      py::gil_scoped_release release;
      mjb_apply(batch_, ids_.data(), rows, sensing_row, &all, 0);
    }
    return py::make_tuple(values, jacobian, status);
  }

  py::tuple transition(const Array& states, const Array& ctrls, int frame_skip, double eps,
                       bool centered) {
    return run(transition_row, states, ctrls, plan_.ndx, frame_skip, eps, centered);
  }

  // Reverse sweep through T steps, in chunks of bounded memory, the last steps first:
  //   g_t += B_t' lambda_{t+1},   lambda_t = l_t + A_t' lambda_{t+1} + K_t' g_t.
  // Where points of a chunk cannot be differentiated here, repair(first, status, A, B) is called,
  // ``first`` the chunk's first point of the T B ones; it writes their A and B, or raises.
  // Returns lambda_0 [B, ndx] and g [T, B, nu].
  py::tuple adjoint(const Array& states, const Array& ctrls, const Array& state_gradients,
                    const Array& ctrl_gradients, const py::object& gains, int frame_skip,
                    double eps, int most_rows, const py::function& repair) {
    if (states.ndim() != 3 || ctrls.ndim() != 3) throw std::invalid_argument("[T, B, n] expected");
    const int steps = static_cast<int>(ctrls.shape(0)), batch = static_cast<int>(ctrls.shape(1));
    const Plan& p = plan_;
    const auto fits = [&](const Array& x, int t, int n) {
      return x.ndim() == 3 && x.shape(0) == t && x.shape(1) == batch && x.shape(2) == n;
    };
    Array K;
    if (!gains.is_none()) K = gains.cast<Array>();
    if (!fits(states, steps, p.nx) || !fits(ctrls, steps, p.nu) ||
        !fits(state_gradients, steps + 1, p.ndx) || !fits(ctrl_gradients, steps, p.nu) ||
        (!gains.is_none() && K.size() != py::ssize_t(steps) * batch * p.nu * p.ndx)) {
      throw std::invalid_argument("shapes of an adjoint sweep do not fit");
    }
    py::array_t<double> costate({batch, p.ndx}), g({steps, batch, p.nu});
    const size_t last = static_cast<size_t>(steps) * batch * p.ndx;
    std::copy(state_gradients.data() + last, state_gradients.data() + state_gradients.size(),
              costate.mutable_data());
    std::copy(ctrl_gradients.data(), ctrl_gradients.data() + ctrl_gradients.size(),
              g.mutable_data());
    const int chunk = std::min(steps, std::max(1, most_rows / std::max(1, batch)));
    const int room = chunk * batch;
    py::array_t<double> A({room, p.ndx, p.ndx}), B({room, p.ndx, p.nu});
    reserve(room);
    for (int end = steps; end > 0; end -= chunk) {
      const int begin = std::max(0, end - chunk), rows = (end - begin) * batch;
      const size_t first = static_cast<size_t>(begin) * batch;
      py::array_t<int> status(rows);
      Job job{&p,
              states.data() + first * p.nx,
              ctrls.data() + first * p.nu,
              A.mutable_data(),
              B.mutable_data(),
              status.mutable_data(),
              p.ndx,
              frame_skip,
              eps,
              false};
      {
        py::gil_scoped_release release;
        mjb_apply(batch_, ids_.data(), rows, implicit_row, &job, 0);
      }
      if (std::any_of(job.status, job.status + rows, [](int s) { return s != 0; })) {
        repair(first, status, A, B);
      }
      py::gil_scoped_release release;
      recursion(p, job, begin, end, batch, state_gradients.data(),
                gains.is_none() ? nullptr : K.data(), costate.mutable_data(), g.mutable_data());
    }
    return py::make_tuple(costate, g);
  }

 private:
  py::tuple run(mjfBatchFunc function, const Array& states, const Array& ctrls, int outputs,
                int frame_skip, double eps, bool centered) {
    const int rows = check(states, ctrls);
    py::array_t<double> A({rows, outputs, plan_.ndx}), B({rows, outputs, plan_.nu});
    py::array_t<int> status(rows);
    Job job{&plan_,           states.data(),         ctrls.data(), A.mutable_data(),
            B.mutable_data(), status.mutable_data(), outputs,      frame_skip,
            eps,              centered,              !fields_.empty()};
    reserve(rows);
    {
      py::gil_scoped_release release;
      mjb_apply(batch_, ids_.data(), rows, function, &job, 0);
    }
    return py::make_tuple(A, B, status);
  }

  static void recursion(const Plan& p, const Job& job, int begin, int end, int batch,
                        const double* state_gradients, const double* gains, double* costate,
                        double* ctrl_gradients) {
    std::vector<double> next(p.ndx);
    for (int t = end - 1; t >= begin; t--) {
      for (int b = 0; b < batch; b++) {
        const size_t row = static_cast<size_t>(t - begin) * batch + b;
        const size_t point = static_cast<size_t>(t) * batch + b;
        const double *A = job.A + row * p.ndx * p.ndx, *B = job.B + row * p.ndx * p.nu;
        const double* direct = state_gradients + point * p.ndx;
        double *lambda = costate + static_cast<size_t>(b) * p.ndx,
               *g = ctrl_gradients + point * p.nu;
        std::copy(direct, direct + p.ndx, next.begin());
        for (int i = 0; i < p.ndx; i++) {
          if (lambda[i] == 0) continue;
          for (int j = 0; j < p.ndx; j++) next[j] += lambda[i] * A[i * p.ndx + j];
          for (int j = 0; j < p.nu; j++) g[j] += lambda[i] * B[i * p.nu + j];
        }
        for (int k = 0; gains && k < p.nu; k++) {
          const double* K = gains + (point * p.nu + k) * p.ndx;
          for (int j = 0; j < p.ndx; j++) next[j] += g[k] * K[j];
        }
        std::copy(next.begin(), next.end(), lambda);
      }
    }
  }

  int check(const Array& states, const Array& ctrls) const {
    if (states.ndim() != 2 || states.shape(1) != plan_.nx || ctrls.ndim() != 2 ||
        ctrls.shape(1) != plan_.nu || ctrls.shape(0) != states.shape(0)) {
      throw std::invalid_argument("states must be [B, nx] and ctrls [B, nu]");
    }
    return static_cast<int>(states.shape(0));
  }

  // A forked child has none of its parent's threads: what waits for them is left alone.
  void drop() {
    if (owner_ == process()) mjb_deleteBatch(batch_);
    batch_ = nullptr;
  }

  void reserve(int rows) {
    if (batch_ && owner_ == process() && rows <= static_cast<int>(ids_.size())) return;
    int capacity = 1;
    while (capacity < rows) capacity *= 2;
    mjBatchConfig config;
    mjb_defaultConfig(&config);
    config.nthread = threads_;
    char error[500] = "";
    mjBatch* made = mjb_makeBatch(model_, capacity, &config, error, sizeof error);
    if (!made) throw std::runtime_error(error);
    drop();
    batch_ = made;
    owner_ = process();
    storage_.clear();
    sizes_.clear();
    for (const std::string& field : fields_) {
      int size = 0, bytes = 0;
      void* place = mjb_expand(batch_, field.c_str(), &size, &bytes);
      if (!place || bytes != sizeof(double)) throw std::invalid_argument("no field " + field);
      storage_.push_back(static_cast<double*>(place));
      sizes_.push_back(size);
    }
    ids_.resize(capacity);
    for (int i = 0; i < capacity; i++) ids_[i] = i;
  }

  const mjModel* model_;
  int threads_;
  Plan plan_;
  std::vector<std::string> fields_;
  std::vector<double*> storage_;
  std::vector<int> sizes_;
  mjBatch* batch_ = nullptr;
  long owner_ = 0;  // the process that made it
  std::vector<int> ids_;
};

}  // namespace
}  // namespace mbrl

PYBIND11_MODULE(_engine, module) {
  module.doc() = "Jacobians of MuJoCo's control step by implicit differentiation.";
  module.attr("BUILT_FOR") = mjVERSION_HEADER;
  module.def("unsupported", [](std::uintptr_t model) {
    return mbrl::unsupported(reinterpret_cast<const mjModel*>(model));
  });
  py::class_<mbrl::Engine>(module, "Engine")
      .def(py::init<std::uintptr_t, int, const mbrl::Array&, const mbrl::Array&,
                    std::vector<std::string>>())
      .def("linearize", &mbrl::Engine::linearize)
      .def("sensors", &mbrl::Engine::sensors)
      .def("sense", &mbrl::Engine::sense)
      .def("adjoint", &mbrl::Engine::adjoint)
      .def("transition", &mbrl::Engine::transition);
}
