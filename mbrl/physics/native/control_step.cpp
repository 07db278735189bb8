#include "control_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dense.h"
#include "difference.h"
#include "spatial.h"

// Exported by libmujoco, not declared by its headers: analytic d(passive + actuator forces)/dv with
// the sparsity of M, into qDeriv. Weak: if it is missing, the models that need it are refused.
extern "C" __attribute__((weak)) void mjd_smooth_vel(const mjModel*, mjData*, int flg_bias);

namespace mbrl {

namespace {

constexpr double kLargest = 1e10;      // MuJoCo's own limit of coordinates
constexpr double kSameUpdate = 1e-7;   // agreement with the engine's integrator, relative

bool healthy(const double* x, int n) {
  for (int i = 0; i < n; i++) {
    if (!(std::fabs(x[i]) < kLargest)) return false;
  }
  return true;
}

// kappa(u, w) of the Runge-Kutta-Munthe-Kaas method: the rate of the rotation vector u in
// q = q0 exp(u) at body velocity w,
//   kappa = w + u x w / 2 + c(|u|) u x (u x w),   c(t) = (1 - t/2 cot(t/2)) / t^2,
// and its derivatives (3, 3).
void rotation_rate(double* rate, double* by_u, double* by_w, const double* u, const double* w) {
  const double t2 = dot3(u, u), t = std::sqrt(t2);
  double c, slope;  // c(t) and c'(t) / t
  if (t < 1e-2) {
    c = 1.0 / 12 + t2 / 720 + t2 * t2 / 30240;
    slope = 1.0 / 360 + t2 / 7560;
  } else {
    const double half = t / 2, g = half / std::tan(half), sine = std::sin(half);
    const double dg = 0.5 / std::tan(half) - 0.5 * half / (sine * sine);
    c = (1 - g) / t2;
    slope = (-dg / t2 - 2 * (1 - g) / (t2 * t)) / t;
  }
  double uw[3], uuw[3];
  cross3(uw, u, w);
  cross3(uuw, u, uw);
  for (int i = 0; i < 3; i++) rate[i] = w[i] + 0.5 * uw[i] + c * uuw[i];
  for (int k = 0; k < 3; k++) {
    double e[3] = {0, 0, 0}, x[3], y[3], z[3];
    e[k] = 1;
    cross3(x, u, e);
    cross3(y, u, x);
    for (int i = 0; i < 3; i++) by_w[3 * i + k] = e[i] + 0.5 * x[i] + c * y[i];
    cross3(x, e, w);
    cross3(y, e, uw);
    cross3(z, u, x);
    for (int i = 0; i < 3; i++) {
      by_u[3 * i + k] = 0.5 * x[i] + c * (y[i] + z[i]) + slope * u[k] * uuw[i];
    }
  }
}

// Whether e is the update (next - v) / h that the engine made.
bool same_update(const double* e, const double* v, const double* next, double h, int nv) {
  double error = 0, scale = 0;
  for (int i = 0; i < nv; i++) {
    const double made = next[i] - v[i], off = h * e[i] - made;
    error += off * off;
    scale += made * made + 1e-16 * (v[i] * v[i] + next[i] * next[i]);
  }
  return error <= kSameUpdate * kSameUpdate * scale + 1e-300;
}

// rows (3, n) = D rows, for the rows of a rotation.
void rotate_rows(double* rows, const double* D, int n) {
  for (int j = 0; j < n; j++) {
    const double x[3] = {rows[j], rows[n + j], rows[2 * n + j]};
    for (int i = 0; i < 3; i++) rows[i * n + j] = dot3(D + 3 * i, x);
  }
}

template <class Function>
void each_rotation(const mjModel* m, Function&& function) {
  for (int j = 0; j < m->njnt; j++) {
    if (m->jnt_type[j] == mjJNT_BALL) function(m->jnt_dofadr[j]);
    if (m->jnt_type[j] == mjJNT_FREE) function(m->jnt_dofadr[j] + 3);
  }
}

}  // namespace

void ControlStep::fit(const Plan& p) {
  const size_t nv = p.nv, n = p.columns, ndx = p.ndx;
  if (fitted_ == p.sizes()) return;
  fitted_ = p.sizes();
  for (auto* t : {&tangents_, &at_stage_, &stage_tangents_, &sum_}) t->assign(ndx * n, 0);
  for (auto* t : {&accelerated_, &updated_, &smooth_}) t->assign(nv * n, 0);
  rates_.assign(p.na * n + 1, 0);
  for (auto* t : {&metric_, &inverse_}) t->assign(nv * nv, 0);
  for (auto* t : {&state_, &start_, &next_}) t->assign(p.nx, 0);
  for (auto* t : {&a_, &e_, &w_, &plus_, &drift_}) t->assign(nv, 0);
  for (auto& t : scratch_) t.assign(nv, 0);
  pivot_.assign(nv, 0);
}

void ControlStep::load(const Plan& p, mjData* d, const double* x) {
  mju_copy(d->qpos, x, p.nq);
  mju_copy(d->qvel, x + p.nq, p.nv);
  mju_copy(d->act, x + p.nq + p.nv, p.na);
}

Status ControlStep::forward(const mjModel* m, mjData* d) {
  mj_forwardSkip(m, d, mjSTAGE_NONE, 1);
  if (d->warning[mjWARN_CONTACTFULL].number || d->warning[mjWARN_CNSTRFULL].number) {
    return Status::kMemory;
  }
  return healthy(d->qacc, static_cast<int>(m->nv)) ? Status::kOk : Status::kDiverged;
}

// out (rows, n) = jacobian (rows, columns) applied to the tangents of the state and to the control.
void ControlStep::propagate(double* out, const Plan& p, const double* jacobian, int rows,
                            const double* tangents) {
  const int n = p.columns;
  if (fresh_ && tangents == tangents_.data()) {
    std::memcpy(out, jacobian, sizeof(double) * rows * n);
    return;
  }
  for (int i = 0; i < rows; i++) {
    double* row = out + i * n;
    std::fill(row, row + p.ndx, 0);
    std::memcpy(row + p.ndx, jacobian + i * n + p.ndx, sizeof(double) * p.nu);
  }
  multiply_add(out, jacobian, n, tangents, rows, p.ndx, n);
}

// Integrate positions: the tangents of q (+) u, from those of q (in place) and of u (nv).
void ControlStep::positions(const Plan& p, const mjModel* m, const double* u,
                            const double* u_tangents, double* tangents) {
  const int n = p.columns;
  each_rotation(m, [&](int i) {
    double by_q[9], by_u[9];
    mjd_quatIntegrate(u + i, 1, by_q, by_u, nullptr);
    rotate_rows(tangents + i * n, by_q, n);
    for (int j = 0; j < n; j++) {
      const double x[3] = {u_tangents[i * n + j], u_tangents[(i + 1) * n + j],
                           u_tangents[(i + 2) * n + j]};
      // The identity that is added below to every row is taken off here.
      for (int k = 0; k < 3; k++) tangents[(i + k) * n + j] += dot3(by_u + 3 * k, x) - x[k];
    }
  });
  for (int i = 0; i < p.nv * n; i++) tangents[i] += u_tangents[i];
}

// The next activations and their tangents, as mj_advance makes them from rates of change.
void ControlStep::activations(const Plan& p, const mjModel* m, const mjData* d, const double* act,
                              const double* rate, const double* rate_tangents, double* tangents,
                              double* next) {
  (void)d;
  const int n = p.columns;
  for (int i = 0; i < m->nactuator; i++) {
    const int start = m->actuator_actadr[i], end = start + m->actuator_actnum[i];
    for (int k = start; start >= 0 && k < end; k++) {
      double weight = m->opt.timestep;
      if (m->actuator_dyntype[i] == mjDYN_FILTEREXACT) {
        const double tau = std::max(mjMINVAL, m->actuator_dynprm[mjNDYN * i]);
        weight = tau * (1 - std::exp(-m->opt.timestep / tau));
      }
      double value = act[k] + weight * rate[k];
      double* row = tangents + k * n;
      const double* change = rate_tangents + k * n;
      for (int j = 0; j < n; j++) row[j] += weight * change[j];
      if (m->actuator_actlimited[i] && k == end - 1) {
        const double low = m->actuator_actrange[2 * i], high = m->actuator_actrange[2 * i + 1];
        if (value < low || value > high) std::fill(row, row + n, 0);
        value = std::min(high, std::max(low, value));
      }
      next[k] = value;
    }
  }
}

// Explicit update of the velocities, then of everything else with the new velocities.
Status ControlStep::euler(const Plan& p, const mjModel* m, mjData* d, double eps) {
  const int nv = p.nv, n = p.columns;
  const double h = m->opt.timestep;
  Status status = forward(m, d);
  if (status == Status::kOk) status = acceleration_.solve(p, m, d);
  if (status != Status::kOk) return status;
  mju_copy(a_.data(), d->qacc, nv);
  const double time = d->time;
  mju_copy(state_.data(), d->qpos, p.nq);
  mju_copy(state_.data() + p.nq, d->qvel, nv);
  mju_copy(state_.data() + p.nq + nv, d->act, p.na);
  if (p.implicit) {
    mj_implicit(m, d);
  } else {
    mj_Euler(m, d);
  }
  mju_copy(next_.data(), d->qpos, p.nq);
  mju_copy(next_.data() + p.nq, d->qvel, nv);
  mju_copy(next_.data() + p.nq + nv, d->act, p.na);
  if (!healthy(next_.data(), p.nx)) return Status::kDiverged;
  d->time = time;
  load(p, d, state_.data());

  status = acceleration_.linearize(p, m, d, eps);
  if (status != Status::kOk) return status;
  const double* change = acceleration_.qacc();
  if (p.damped_euler || p.implicit) {
    status = p.implicit ? implicit(p, m, d, next_.data() + p.nq, eps)
                        : damped(p, m, d, next_.data() + p.nq);
    if (status != Status::kOk) return status;
    change = updated_.data();
  } else if (!same_update(a_.data(), state_.data() + p.nq, next_.data() + p.nq, h, nv)) {
    return Status::kIntegrator;
  }
  propagate(accelerated_.data(), p, change, nv, tangents_.data());
  if (p.na) propagate(rates_.data(), p, acceleration_.act_dot(), p.na, tangents_.data());
  double *q = tangents_.data(), *v = q + nv * n, *act = v + nv * n;
  for (int i = 0; i < nv * n; i++) {
    v[i] += h * accelerated_[i];
    accelerated_[i] = h * v[i];
  }
  for (int i = 0; i < nv; i++) e_[i] = h * next_[p.nq + i];
  positions(p, m, e_.data(), accelerated_.data(), q);
  double* next_act = next_.data() + p.nq + nv;
  activations(p, m, d, state_.data() + p.nq + nv, d->act_dot, rates_.data(), act, next_act);
  load(p, d, next_.data());
  mju_copy(d->qacc_warmstart, a_.data(), nv);
  return Status::kOk;
}

// (M + h D) e = M a:  de = (M + h D)^-1 (M da + d(M w) - h d(D) e), w = a - e.
Status ControlStep::damped(const Plan& p, const mjModel* m, mjData* d, const double* next) {
  const int nv = p.nv, n = p.columns;
  const double h = m->opt.timestep, *M = acceleration_.mass();
  std::copy(M, M + nv * nv, metric_.begin());
  // Of the damping force -(b + b1 |v| + b2 v^2) v, the slope D and the slope's own slope.
  for (int i = 0; i < nv; i++) {
    const double v = d->qvel[i], b1 = m->dof_dampingpoly[mjNPOLY * i],
                 b2 = m->dof_dampingpoly[mjNPOLY * i + 1];
    metric_[i * nv + i] += h * (m->dof_damping[i] + 2 * b1 * std::fabs(v) + 3 * b2 * v * v);
    drift_[i] = h * (2 * b1 * (v > 0 ? 1 : -1) + 6 * b2 * v);
  }
  if (!cholesky(metric_.data(), nv)) return Status::kDiverged;
  mju_mulMatVec(e_.data(), M, d->qacc, nv, nv);
  cholesky_solve(metric_.data(), e_.data(), nv, 1);
  if (!same_update(e_.data(), d->qvel, next, h, nv)) return Status::kIntegrator;
  for (int i = 0; i < nv; i++) w_[i] = d->qacc[i] - e_[i];
  std::fill(plus_.begin(), plus_.end(), 0);
  if (acceleration_.displaced()) {
    mj_kinematics(m, d);
    mj_comPos(m, d);
  }
  other_.compute(m, d, plus_.data(), w_.data(), false, false);
  std::fill(updated_.begin(), updated_.end(), 0);
  for (int i = 0; i < nv; i++) {
    for (int j = 0; j < nv; j++) updated_[i * n + j] = other_.dq()[i * nv + j];
    updated_[i * n + nv + i] = -drift_[i] * e_[i];
  }
  multiply_add(updated_.data(), M, nv, acceleration_.qacc(), nv, nv, n);
  cholesky_solve(metric_.data(), updated_.data(), nv, n);
  return Status::kOk;
}

// smooth_ (nv, columns) = d(Q s), Q the slope of passive and actuator forces in the velocity.
void ControlStep::smooth_slopes(const Plan& p, const mjModel* m, mjData* d, const double* s,
                                double eps) {
  const int nv = p.nv, n = p.columns;
  const bool symmetric = m->opt.integrator == mjINT_IMPLICITFAST;
  const auto evaluate = [&](double* out) {
    mj_fwdVelocity(m, d);
    mj_fwdActuation(m, d);
    mjd_smooth_vel(m, d, 0);
    mju_zero(out, nv);
    for (int i = 0; i < nv; i++) {
      const int start = m->D_rowadr[i];
      for (int k = start; k < start + m->D_rownnz[i]; k++) {
        const int j = m->D_colind[k];
        const double x = (symmetric ? 0.5 : 1.0) * d->qDeriv[k];
        out[i] += x * s[j];
        if (symmetric) out[j] += x * s[i];
      }
    }
  };
  const auto place = [&](const double* direction, double h) {
    mju_copy(d->qpos, state_.data(), p.nq);
    if (direction) mj_integratePos(m, d->qpos, direction, h);
    mj_kinematics(m, d);
    mj_comPos(m, d);
    mj_tendon(m, d);
    mj_transmission(m, d);
  };
  const auto write = [&](int column, const double* high, const double* low) {
    for (int i = 0; i < nv; i++) smooth_[i * n + column] = (high[i] - low[i]) / (2 * eps);
  };
  double* minus = scratch_[0].data();
  double* direction = scratch_[1].data();
  std::fill(smooth_.begin(), smooth_.end(), 0);
  mju_zero(direction, nv);
  for (int j = 0; j < nv; j++) {
    direction[j] = 1;
    place(direction, eps);
    evaluate(plus_.data());
    place(direction, -eps);
    evaluate(minus);
    direction[j] = 0;
    write(j, plus_.data(), minus);
  }
  place(nullptr, 0);
  for (int j = 0; j < nv; j++) {
    const double v = d->qvel[j];
    d->qvel[j] = v + eps;
    evaluate(plus_.data());
    d->qvel[j] = v - eps;
    evaluate(minus);
    d->qvel[j] = v;
    write(nv + j, plus_.data(), minus);
  }
  if (!p.velocity_gains) return;
  double* centre = scratch_[2].data();
  evaluate(centre);
  for (int k = 0; k < p.na + p.nu; k++) {
    double* value = k < p.na ? d->act + k : d->ctrl + (k - p.na);
    const double kept = *value;
    double h1, h2;
    difference_sizes(kept, p.low[k], p.high[k], eps, &h1, &h2);
    *value = kept + h1;
    evaluate(plus_.data());
    *value = kept + h2;
    evaluate(minus);
    *value = kept;
    for (int i = 0; i < nv; i++) {
      smooth_[i * n + 2 * nv + k] = parabola_slope(centre[i], plus_[i], minus[i], h1, h2);
    }
  }
}

// (M - h Q) e = M a:  de = (M - h Q)^-1 (M da + d(M w) + h d(Q) e), w = a - e. Of Q the part that
// belongs to the inertial forces c(q, v) is analytic: c is quadratic in v, so that
//   (dc/dv) e = (c(v + e) - c(v - e)) / 2   and   d((dc/dv) e)/dv = dc/dv at velocity e.
Status ControlStep::implicit(const Plan& p, const mjModel* m, mjData* d, const double* next,
                             double eps) {
  const int nv = p.nv, n = p.columns;
  const double h = m->opt.timestep, *M = acceleration_.mass();
  const bool fast = m->opt.integrator == mjINT_IMPLICITFAST;
  double* Q = inverse_.data();
  std::fill(inverse_.begin(), inverse_.end(), 0);
  for (int i = 0; i < nv; i++) {
    const int start = m->D_rowadr[i];
    for (int k = start; k < start + m->D_rownnz[i]; k++) Q[i * nv + m->D_colind[k]] = d->qDeriv[k];
  }
  if (fast) {
    mju_symmetrize(Q, Q, nv);
    const double* inertial = acceleration_.rigid().slope();
    for (const int s : p.standalone) {
      for (int i = s; i < s + 6; i++) {
        for (int j = s; j < s + 6; j++) Q[i * nv + j] -= inertial[i * nv + j];
      }
    }
  }
  for (int i = 0; i < nv * nv; i++) metric_[i] = M[i] - h * Q[i];
  if (!lu(metric_.data(), pivot_.data(), nv)) return Status::kDiverged;
  mju_mulMatVec(e_.data(), M, d->qacc, nv, nv);
  lu_solve(metric_.data(), pivot_.data(), e_.data(), nv, 1);
  if (!same_update(e_.data(), d->qvel, next, h, nv)) return Status::kIntegrator;
  for (int i = 0; i < nv; i++) w_[i] = d->qacc[i] - e_[i];

  std::fill(updated_.begin(), updated_.end(), 0);
  if (p.drifting_damping) {
    smooth_slopes(p, m, d, e_.data(), eps);
    for (int i = 0; i < nv * n; i++) updated_[i] = h * smooth_[i];
  }
  mju_copy(d->qpos, state_.data(), p.nq);
  mj_kinematics(m, d);
  mj_comPos(m, d);
  double *zero = scratch_[0].data(), *velocity = scratch_[1].data(), *along = scratch_[2].data();
  mju_zero(zero, nv);
  const auto add = [&](const double* slope, int column, double scale, int begin, int end) {
    for (int i = begin; i < end; i++) {
      for (int j = begin; j < end; j++) {
        updated_[i * n + column + j] += scale * slope[i * nv + j];
      }
    }
  };
  other_.compute(m, d, zero, w_.data(), false, false);
  add(other_.dq(), 0, 1, 0, nv);
  const auto inertial = [&](int begin, int end) {
    mju_zero(along, nv);
    mju_copy(along + begin, e_.data() + begin, end - begin);
    for (const double sign : {1.0, -1.0}) {
      for (int i = 0; i < nv; i++) velocity[i] = d->qvel[i] + sign * along[i];
      other_.compute(m, d, velocity, zero, false, false);
      add(other_.dq(), 0, -0.5 * sign * h, begin, end);
    }
    other_.compute(m, d, along, zero, false, false);
    add(other_.dv(), nv, -h, begin, end);
  };
  if (!fast) {
    inertial(0, nv);
  } else {
    for (const int s : p.standalone) inertial(s, s + 6);
  }
  multiply_add(updated_.data(), M, nv, acceleration_.qacc(), nv, nv, n);
  lu_solve(metric_.data(), pivot_.data(), updated_.data(), nv, n);
  return Status::kOk;
}

// Classical fourth order; on rotations in the variant of Munthe-Kaas, as MuJoCo 4.0 has it.
Status ControlStep::runge_kutta(const Plan& p, const mjModel* m, mjData* d, double eps) {
  static constexpr double kReach[4] = {0, 0.5, 0.5, 1};
  static constexpr double kWeight[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
  const int nv = p.nv, na = p.na, n = p.columns;
  const double h = m->opt.timestep;
  mju_copy(start_.data(), d->qpos, p.nq);
  mju_copy(start_.data() + p.nq, d->qvel, nv);
  mju_copy(start_.data() + p.nq + nv, d->act, na);
  // Slopes of the last stage and their weighted sums: (dq rate, dv rate, dact rate).
  std::vector<double>&slope = stage_tangents_, &sum = sum_;
  double *rate = state_.data(), *total = next_.data();  // (nv + nv + na)
  std::fill(sum.begin(), sum.end(), 0);
  mju_zero(total, 2 * nv + na);
  double* at = at_stage_.data();  // tangents at the stage
  std::vector<double>& u = a_;
  mju_zero(u.data(), nv);
  for (int stage = 0; stage < 4; stage++) {
    const double* tangents = tangents_.data();
    if (stage) {
      const double c = h * kReach[stage];
      tangents = at;
      std::memcpy(at, tangents_.data(), sizeof(double) * p.ndx * n);
      for (int i = 0; i < nv; i++) u[i] = c * rate[i];
      for (int i = 0; i < p.ndx * n; i++) slope[i] *= c;
      positions(p, m, u.data(), slope.data(), at);
      for (int i = nv * n; i < p.ndx * n; i++) at[i] += slope[i];
      mju_copy(d->qpos, start_.data(), p.nq);
      mj_integratePos(m, d->qpos, u.data(), 1);
      for (int i = 0; i < nv; i++) d->qvel[i] = start_[p.nq + i] + c * rate[nv + i];
      for (int i = 0; i < na; i++) d->act[i] = start_[p.nq + nv + i] + c * rate[2 * nv + i];
    }
    Status status = forward(m, d);
    if (status == Status::kOk) status = acceleration_.solve(p, m, d);
    if (status != Status::kOk) return status;
    mju_copy(d->qacc_warmstart, d->qacc, nv);
    mju_copy(rate, d->qvel, nv);
    mju_copy(rate + nv, d->qacc, nv);
    mju_copy(rate + 2 * nv, d->act_dot, na);
    status = acceleration_.linearize(p, m, d, eps);
    if (status != Status::kOk) return status;
    // slope still holds the tangents of u where the stage is not the first.
    double *dq = slope.data(), *dv = dq + nv * n;
    const double* v = tangents + nv * n;
    each_rotation(m, [&](int i) {
      double value[3], by_u[9], by_w[9];
      rotation_rate(value, by_u, by_w, u.data() + i, d->qvel + i);
      mju_copy3(rate + i, value);
      double* rows = dq + i * n;
      if (stage == 0) std::fill(rows, rows + 3 * n, 0);
      rotate_rows(rows, by_u, n);
      for (int j = 0; j < n; j++) {
        const double x[3] = {v[i * n + j], v[(i + 1) * n + j], v[(i + 2) * n + j]};
        for (int k = 0; k < 3; k++) rows[k * n + j] += dot3(by_w + 3 * k, x);
      }
    });
    for (int j = 0; j < m->njnt; j++) {
      const int i = m->jnt_dofadr[j], type = m->jnt_type[j];
      const int rows = type == mjJNT_FREE ? 3 : (type == mjJNT_BALL ? 0 : 1);
      std::memcpy(dq + i * n, v + i * n, sizeof(double) * rows * n);
    }
    propagate(dv, p, acceleration_.qacc(), nv, tangents);
    if (na) propagate(dv + nv * n, p, acceleration_.act_dot(), na, tangents);
    for (int i = 0; i < p.ndx * n; i++) sum[i] += kWeight[stage] * slope[i];
    for (int i = 0; i < 2 * nv + na; i++) total[i] += kWeight[stage] * rate[i];
  }
  double *q = tangents_.data(), *v = q + nv * n, *act = v + nv * n;
  for (int i = 0; i < nv; i++) u[i] = h * total[i];
  for (int i = 0; i < 2 * nv * n; i++) sum[i] *= h;
  positions(p, m, u.data(), sum.data(), q);
  for (int i = 0; i < nv * n; i++) v[i] += sum[nv * n + i];
  activations(p, m, d, start_.data() + p.nq + nv, total + 2 * nv, sum.data() + 2 * nv * n, act,
              rate);
  mju_copy(d->qpos, start_.data(), p.nq);
  mj_integratePos(m, d->qpos, u.data(), 1);
  for (int i = 0; i < nv; i++) d->qvel[i] = start_[p.nq + i] + h * total[nv + i];
  mju_copy(d->act, rate, na);
  return healthy(d->qpos, p.nq) && healthy(d->qvel, nv) ? Status::kOk : Status::kDiverged;
}

Status ControlStep::linearize(const Plan& p, const mjModel* m, mjData* d, int frame_skip,
                              double eps) {
  fit(p);
  std::fill(tangents_.begin(), tangents_.end(), 0);
  for (int i = 0; i < p.ndx; i++) tangents_[i * p.columns + i] = 1;
  fresh_ = true;
  for (int k = 0; k < frame_skip; k++) {
    const Status status =
        m->opt.integrator == mjINT_RK4 ? runge_kutta(p, m, d, eps) : euler(p, m, d, eps);
    if (status != Status::kOk) return status;
    fresh_ = false;
  }
  return Status::kOk;
}

}  // namespace mbrl
