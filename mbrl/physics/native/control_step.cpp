#include "control_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dense.h"
#include "integrator.h"

namespace mbrl {

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
void ControlStep::activations(const Plan& p, const mjModel* m, const double* act,
                              const double* rate, const double* rate_tangents, double* tangents,
                              double* next) {
  const int n = p.columns;
  for (int i = 0; i < m->nactuator; i++) {
    const int start = m->actuator_actadr[i], end = start + m->actuator_actnum[i];
    const int group = m->actuator_group[i];
    const bool held = group >= 0 && group < 31 && (m->opt.disableactuator & (1 << group));
    for (int k = start; start >= 0 && k < end; k++) {
      double weight = held ? 0 : m->opt.timestep;
      if (!held && m->actuator_dyntype[i] == mjDYN_FILTEREXACT) {
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
  act_dot_.assign(d->act_dot, d->act_dot + p.na);
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
  const double* made = next_.data() + p.nq + nv;
  double* own = sum_.data();
  activations(p, m, state_.data() + p.nq + nv, act_dot_.data(), rates_.data(), act, own);
  for (int k = 0; k < p.na; k++) {
    if (std::fabs(own[k] - made[k]) > 1e-9 * (1 + std::fabs(made[k]))) return Status::kIntegrator;
  }
  load(p, d, next_.data());
  mju_copy(d->qacc_warmstart, a_.data(), nv);
  return Status::kOk;
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
